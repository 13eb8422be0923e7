//! The flags that name engines, of every command that asks one: those of the docker client.

use std::path::PathBuf;

use super::Failure;
use crate::engine::{ClientOptions, Host};

/// Which engines are meant.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Engines")]
pub(super) struct Hosts {
    /// An engine: unix:///path, tcp://host:port, http[s]://host, ssh://user@host, or NAME=URL to name the source;
    /// repeatable [default: $DOCKER_HOST, the docker client's current context, or unix:///var/run/docker.sock]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    hosts: Vec<String>,
    /// The docker client's context to use in its place [default: $DOCKER_CONTEXT]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Speak TLS, whoever answers
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls: Option<bool>,
    /// Speak TLS, and make sure who answers [default: if $DOCKER_TLS_VERIFY is set]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tlsverify: Option<bool>,
    /// Who signs engines' certificates (PEM) [default: ca.pem in $DOCKER_CERT_PATH or ~/.docker]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// The certificate to show (PEM) [default: cert.pem there, if it is there]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// The key of the certificate (PEM) [default: key.pem there, if it is there]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

impl Hosts {
    /// Finds them.
    pub(super) fn find(&self) -> Result<Vec<Host>, Failure> {
        let options = ClientOptions {
            hosts: self.hosts.clone(),
            context: self.context.clone(),
            tls: self.tls,
            tls_verify: self.tlsverify,
            tls_ca: self.tlscacert.clone(),
            tls_cert: self.tlscert.clone(),
            tls_key: self.tlskey.clone(),
        };
        Ok(options.hosts(environment)?)
    }
}

/// A variable of the environment. A service has no HOME as a rule; its user has.
fn environment(name: &str) -> Option<String> {
    let home = || std::env::home_dir().and_then(|home| home.into_os_string().into_string().ok());
    std::env::var(name).ok().or_else(|| (name == "HOME").then(home).flatten())
}
