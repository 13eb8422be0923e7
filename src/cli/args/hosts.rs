//! The options that select engines, in every command that connects to one. They are those of the docker client.

use std::path::PathBuf;

use crate::cli::Failure;
use crate::engine::{ClientOptions, Host};

/// Engines to connect to.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Host options")]
pub(in crate::cli) struct HostArgs {
    /// Engine to connect to, such as unix:///run/docker.sock; repeatable
    ///
    /// unix:///path, tcp://host[:port], http[s]://host[:port] or ssh://[user@]host[:port]. NAME=URL names the source:
    /// build=tcp://10.0.0.7:2375. The default is $DOCKER_HOST, or else the current context of the docker client, or
    /// else unix:///var/run/docker.sock.
    #[arg(short = 'H', long = "host", value_name = "URL")]
    hosts: Vec<String>,
    /// Docker context to use instead of `--host`
    ///
    /// The default is $DOCKER_CONTEXT, or else the current context of the docker client.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Use TLS without verifying the server
    ///
    /// The default is true if $DOCKER_TLS is set.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls: Option<bool>,
    /// Use TLS and verify the server
    ///
    /// The default is true if $DOCKER_TLS_VERIFY is set.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tlsverify: Option<bool>,
    /// Certificate authorities of the servers (PEM)
    ///
    /// The default is ca.pem in $DOCKER_CERT_PATH or ~/.docker.
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Client certificate (PEM)
    ///
    /// The default is cert.pem in $DOCKER_CERT_PATH or ~/.docker, if it exists.
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Private key of the client certificate (PEM)
    ///
    /// The default is key.pem in $DOCKER_CERT_PATH or ~/.docker, if it exists.
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
}

impl HostArgs {
    /// Finds the engines, as the docker client does.
    pub(in crate::cli) fn resolve(&self) -> Result<Vec<Host>, Failure> {
        let options = ClientOptions {
            hosts: self.hosts.clone(),
            context: self.context.clone(),
            tls: self.tls,
            tls_verify: self.tlsverify,
            tls_ca: self.tlscacert.clone(),
            tls_cert: self.tlscert.clone(),
            tls_key: self.tlskey.clone(),
        };
        Ok(options.resolve(environment)?)
    }
}

/// Value of an environment variable. Without HOME, as in most services, the home directory of the user is used.
fn environment(name: &str) -> Option<String> {
    let home = || std::env::home_dir().and_then(|home| home.into_os_string().into_string().ok());
    std::env::var(name).ok().or_else(|| (name == "HOME").then(home).flatten())
}
