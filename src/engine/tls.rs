//! TLS to an engine: whose certificate is believed, what is shown of our own, and what a failure means in plain words.
//!
//! The files are read when the recorder starts, so that what cannot be used is said at once, and again whenever they
//! have changed: a certificate that is renewed on the disk is taken without a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use chrono::DateTime;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    SignatureScheme,
};

use super::connect::Refusal;

/// Certificates or keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("cannot use {}: the key is encrypted, and there is nobody to ask for its passphrase", path.display())]
    Encrypted { path: PathBuf },
    #[error("cannot use {} with {}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: RustlsError },
    #[error("cannot use the certificates of {}: {why}", path.display())]
    Authorities { path: PathBuf, why: String },
    #[error("this machine trusts no authority that could vouch for the engine: {why}")]
    NoAuthority { why: String },
}

impl TlsError {
    fn reading(path: &Path, error: rustls_pki_types::pem::Error) -> TlsError {
        match error {
            rustls_pki_types::pem::Error::Io(source) => TlsError::File { path: path.into(), source },
            source => TlsError::Pem { path: path.into(), source },
        }
    }
}

/// Reads the certificates in a file (PEM).
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| TlsError::reading(path, e))
}

/// Reads the key in a file (PEM).
pub(crate) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| match fs::read_to_string(path) {
        Ok(text) if text.contains("ENCRYPTED") => TlsError::Encrypted { path: path.into() },
        _ => TlsError::reading(path, e),
    })
}

/// Reads the authorities in a file (PEM), of which there must be one.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let wrong = |why: String| TlsError::Authorities { path: path.into(), why };
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("there is none".into())) } else { Ok(roots) }
}

/// How the engine of a host is spoken to under TLS.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    files: Files,
    loaded: Arc<Mutex<Option<Loaded>>>,
}

/// What it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Whether the engine's certificate must be good for its name.
    pub(super) verify: bool,
    /// Who may have signed it; else those whom this machine trusts.
    pub(super) authorities: Option<PathBuf>,
    /// Our own certificate and its key, for engines that want one.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct Loaded {
    stamps: Vec<Stamp>,
    config: Arc<ClientConfig>,
}

/// When a file was last changed, and how long it is; `None` if it is not there.
type Stamp = Option<(SystemTime, u64)>;

impl From<Files> for Tls {
    fn from(files: Files) -> Tls {
        Tls { files, loaded: Arc::default() }
    }
}

impl Tls {
    #[cfg(test)]
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// What the files say, read again if they have changed. While new ones are being put there they may not fit each
    /// other: then what was read before is still good.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let stamps = self.files.stamps();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.stamps == stamps) {
            return Ok(loaded.config.clone());
        }
        match (self.files.config(), loaded.as_ref()) {
            (Ok(config), _) => {
                let config = Arc::new(config);
                *loaded = Some(Loaded { stamps, config: config.clone() });
                Ok(config)
            }
            (Err(e), Some(before)) => {
                tracing::debug!("{e}; what was read before is taken");
                Ok(before.config.clone())
            }
            (Err(e), None) => Err(e),
        }
    }

    /// Speaks TLS on a connection.
    pub(super) async fn wrap(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(Refusal::new(format!("no certificate can be for the name '{host}'"), "")))?;
        let shaken = TlsConnector::from(config).connect(name, stream).await;
        shaken.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                io::Error::other(Refusal::new("it ends the connection when TLS is spoken".into(), IN_CLEAR))
            }
            _ => refusal(&e).map_or(e, io::Error::other),
        })
    }

    /// Whether there is a certificate of our own to show.
    pub(super) fn shows_one(&self) -> bool {
        self.files.identity.is_some()
    }
}

impl Files {
    fn stamps(&self) -> Vec<Stamp> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        let stamp = |path: &PathBuf| {
            let file = fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        };
        self.authorities.iter().chain(identity).map(stamp).collect()
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder();
        let builder = match (self.verify, &self.authorities) {
            (false, _) => {
                let anyone = Anyone(builder.crypto_provider().clone());
                builder.dangerous().with_custom_certificate_verifier(Arc::new(anyone))
            }
            (true, Some(path)) => builder.with_root_certificates(authorities(path)?),
            (true, None) => builder.with_root_certificates(trusted_here()?),
        };
        let Some((certificate, secret)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        builder.with_client_auth_cert(certificates(certificate)?, key(secret)?).map_err(|source| TlsError::Pair {
            certificate: certificate.clone(),
            key: secret.clone(),
            source,
        })
    }
}

/// Whom this machine trusts.
fn trusted_here() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match found.errors.first() {
        _ if !roots.is_empty() => Ok(roots),
        Some(e) => Err(TlsError::NoAuthority { why: e.to_string() }),
        None => Err(TlsError::NoAuthority { why: "there are no certificates".into() }),
    }
}

/// Believes any certificate: `--tls` without `--tlsverify`. Who shows it must have its key all the same.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) const SHOW_ONE: &str = "--tlscert FILE and --tlskey FILE, or DOCKER_CERT_PATH";
const IN_CLEAR: &str = "is TLS spoken on that port? An engine without TLS is at tcp://, without --tls";
const ANOTHER_NAME: &str = "reach the engine by a name that stands in it";
const RENEW: &str = "renew it at the engine; or is the clock of this machine wrong?";
const TOO_OLD: &str = "it must speak TLS 1.2 or newer";

/// What went wrong in plain words, if it is TLS that did.
pub(super) fn refusal(error: &io::Error) -> Option<Refusal> {
    let error = error.get_ref()?.downcast_ref::<RustlsError>()?;
    let (why, hint) = match error {
        RustlsError::InvalidCertificate(what) => certificate(what),
        RustlsError::AlertReceived(alert) => alerted(*alert),
        RustlsError::InvalidMessage(_) => ("what it answers is no TLS".into(), IN_CLEAR),
        RustlsError::PeerIncompatible(what) => (format!("it speaks no TLS that is safe ({what:?})"), TOO_OLD),
        other => (other.to_string(), ""),
    };
    Some(Refusal::new(why, hint))
}

/// What is wrong with the engine's certificate.
fn certificate(error: &CertificateError) -> (String, &'static str) {
    use CertificateError as E;
    match error {
        E::Expired => ("its certificate has expired".into(), RENEW),
        E::ExpiredContext { not_after, .. } => (format!("its certificate expired at {}", date(*not_after)), RENEW),
        E::NotValidYet => ("its certificate is not valid yet".into(), RENEW),
        E::NotValidYetContext { not_before, .. } => {
            (format!("its certificate is not valid before {}", date(*not_before)), RENEW)
        }
        E::UnknownIssuer | E::BadSignature => (
            "its certificate is signed by nobody who is trusted here".into(),
            "--tlscacert FILE names the authority that signed it",
        ),
        E::NotValidForName => ("its certificate is for another name".into(), ANOTHER_NAME),
        E::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name".into() } else { names.join(", ") };
            (format!("its certificate is for {names}, not for {}", expected.to_str()), ANOTHER_NAME)
        }
        E::Other(what) if format!("{what:?}").contains("CaUsedAsEndEntity") => (
            "its certificate is that of an authority, and so not one of a machine".into(),
            "make one for the engine that the authority signs",
        ),
        other => (format!("its certificate cannot be used: {other}"), "renew it at the engine"),
    }
}

/// `DnsName("box")` → `box`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
    inner.trim_matches('"')
}

fn date(time: UnixTime) -> String {
    let date = i64::try_from(time.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    date.map_or_else(|| "an unknown time".into(), |date| date.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// What the engine has against us.
fn alerted(alert: AlertDescription) -> (String, &'static str) {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => ("it wants a certificate of ours".into(), SHOW_ONE),
        A::CertificateExpired => ("it says that our certificate has expired".into(), "renew it"),
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied
        | A::DecryptError => ("it does not take our certificate, or wants one".into(), SHOW_ONE),
        A::ProtocolVersion => ("it speaks no version of TLS that is safe".into(), TOO_OLD),
        other => (format!("it breaks off TLS ({other:?})"), ""),
    }
}
