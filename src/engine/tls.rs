//! TLS connections to an engine: trusted authorities, the client certificate, and readable errors.
//!
//! The files are loaded when the recorder starts, so that unusable ones are reported immediately. They are loaded again
//! whenever they have changed, so a renewed certificate is used without a restart.

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

use super::connect::TransportError;

/// Error in a certificate or key file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the error messages describe the variants and their fields")]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("cannot use {}: the key is encrypted, and passphrases are not supported", path.display())]
    EncryptedKey { path: PathBuf },
    #[error("cannot use certificate {} with key {}", certificate.display(), key.display())]
    KeyMismatch { certificate: PathBuf, key: PathBuf, source: RustlsError },
    #[error("cannot use the CA certificates in {}: {reason}", path.display())]
    InvalidCa { path: PathBuf, reason: String },
    #[error("the system trust store has no usable CA: {reason}")]
    NoTrustedCa { reason: String },
}

impl TlsError {
    fn read_error(path: &Path, error: rustls_pki_types::pem::Error) -> TlsError {
        match error {
            rustls_pki_types::pem::Error::Io(source) => TlsError::File { path: path.into(), source },
            source => TlsError::Pem { path: path.into(), source },
        }
    }
}

/// Loads the certificates in a PEM file.
pub(crate) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| TlsError::read_error(path, e))
}

/// Loads the key in a PEM file.
pub(crate) fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| match fs::read_to_string(path) {
        Ok(text) if text.contains("ENCRYPTED") => TlsError::EncryptedKey { path: path.into() },
        _ => TlsError::read_error(path, e),
    })
}

/// Loads the authorities in a PEM file, which must contain at least one.
pub(crate) fn load_ca(path: &Path) -> Result<RootCertStore, TlsError> {
    let invalid = |reason: String| TlsError::InvalidCa { path: path.into(), reason };
    let mut roots = RootCertStore::empty();
    for authority in load_certificates(path)? {
        roots.add(authority).map_err(|e| invalid(e.to_string()))?;
    }
    if roots.is_empty() { Err(invalid("the file contains no certificate".into())) } else { Ok(roots) }
}

/// TLS settings of a host, with the loaded configuration.
#[derive(Clone, Debug)]
pub(super) struct TlsClient {
    files: TlsFiles,
    loaded: Arc<Mutex<Option<LoadedConfig>>>,
}

/// Files for TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsFiles {
    /// True if the server certificate is verified.
    pub(super) verify: bool,
    /// File with the trusted authorities; else the system trust store.
    pub(super) ca: Option<PathBuf>,
    /// Client certificate and its key, for engines that require one.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct LoadedConfig {
    stamps: Vec<FileStamp>,
    config: Arc<ClientConfig>,
}

/// Modification time and size of a file; `None` if it does not exist.
type FileStamp = Option<(SystemTime, u64)>;

impl From<TlsFiles> for TlsClient {
    fn from(files: TlsFiles) -> TlsClient {
        TlsClient { files, loaded: Arc::default() }
    }
}

impl TlsClient {
    #[cfg(test)]
    pub(super) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Returns the configuration, loaded again if the files have changed.
    ///
    /// While files are being replaced they may not match each other. Then the previous configuration stays in use.
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
                *loaded = Some(LoadedConfig { stamps, config: config.clone() });
                Ok(config)
            }
            (Err(e), Some(previous)) => {
                tracing::debug!("{e}; the previous certificates stay in use");
                Ok(previous.config.clone())
            }
            (Err(e), None) => Err(e),
        }
    }

    /// Performs the TLS handshake on a connection.
    pub(super) async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            io::Error::other(TransportError::new(format!("'{host}' is not a valid certificate name"), ""))
        })?;
        let handshake = TlsConnector::from(config).connect(name, stream).await;
        handshake.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => io::Error::other(TransportError::new(
                "the server closed the connection during the TLS handshake".into(),
                PLAINTEXT_HINT,
            )),
            _ => transport_error(&e).map_or(e, io::Error::other),
        })
    }

    /// Returns true if a client certificate is configured.
    pub(super) fn has_client_certificate(&self) -> bool {
        self.files.identity.is_some()
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<FileStamp> {
        let identity = self.identity.iter().flat_map(|(certificate, key)| [certificate, key]);
        let stamp = |path: &PathBuf| {
            let file = fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        };
        self.ca.iter().chain(identity).map(stamp).collect()
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder();
        let builder = match (self.verify, &self.ca) {
            (false, _) => {
                let verifier = AcceptAnyCertificate(builder.crypto_provider().clone());
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
            (true, Some(path)) => builder.with_root_certificates(load_ca(path)?),
            (true, None) => builder.with_root_certificates(system_roots()?),
        };
        let Some((certificate, key_path)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        builder
            .with_client_auth_cert(load_certificates(certificate)?, load_key(key_path)?)
            .map_err(|source| TlsError::KeyMismatch { certificate: certificate.clone(), key: key_path.clone(), source })
    }
}

/// Loads the system trust store.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let native = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(native.certs);
    match native.errors.first() {
        _ if !roots.is_empty() => Ok(roots),
        Some(e) => Err(TlsError::NoTrustedCa { reason: e.to_string() }),
        None => Err(TlsError::NoTrustedCa { reason: "no certificates found".into() }),
    }
}

/// Accepts any server certificate: `--tls` without `--tlsverify`. The server must still prove that it has the key.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
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

pub(super) const CLIENT_CERTIFICATE_HINT: &str = "pass --tlscert FILE and --tlskey FILE, or set DOCKER_CERT_PATH";
const PLAINTEXT_HINT: &str = "check that the port uses TLS; for an engine without TLS, use tcp:// and omit --tls";
const NAME_MISMATCH_HINT: &str = "connect with a name that the certificate contains";
const RENEW_HINT: &str = "renew the certificate on the engine, or check the clock of this machine";
const TLS_VERSION_HINT: &str = "enable TLS 1.2 or newer on the server";

/// Describes a TLS error in plain words; `None` for any other error.
pub(super) fn transport_error(error: &io::Error) -> Option<TransportError> {
    let error = error.get_ref()?.downcast_ref::<RustlsError>()?;
    let (reason, hint) = match error {
        RustlsError::InvalidCertificate(what) => describe_certificate_error(what),
        RustlsError::AlertReceived(alert) => describe_alert(*alert),
        RustlsError::InvalidMessage(_) => ("the response of the server is not TLS".into(), PLAINTEXT_HINT),
        RustlsError::PeerIncompatible(what) => {
            (format!("the server supports no secure version of TLS ({what:?})"), TLS_VERSION_HINT)
        }
        other => (other.to_string(), ""),
    };
    Some(TransportError::new(reason, hint))
}

/// Describes what is wrong with the server certificate, with a hint.
fn describe_certificate_error(error: &CertificateError) -> (String, &'static str) {
    use CertificateError as E;
    match error {
        E::Expired => ("the server certificate has expired".into(), RENEW_HINT),
        E::ExpiredContext { not_after, .. } => {
            (format!("the server certificate expired at {}", format_time(*not_after)), RENEW_HINT)
        }
        E::NotValidYet => ("the server certificate is not valid yet".into(), RENEW_HINT),
        E::NotValidYetContext { not_before, .. } => {
            (format!("the server certificate is not valid before {}", format_time(*not_before)), RENEW_HINT)
        }
        E::UnknownIssuer | E::BadSignature => (
            "the server certificate is not signed by a trusted authority".into(),
            "pass the authority that signed it with --tlscacert FILE",
        ),
        E::NotValidForName => ("the server certificate is for another name".into(), NAME_MISMATCH_HINT),
        E::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare_name(name)).collect();
            let names = if names.is_empty() { "no name".into() } else { names.join(", ") };
            (format!("the server certificate is for {names}, not for {}", expected.to_str()), NAME_MISMATCH_HINT)
        }
        E::Other(what) if format!("{what:?}").contains("CaUsedAsEndEntity") => (
            "the server certificate is a CA certificate".into(),
            "create a certificate for the engine, signed by that CA",
        ),
        other => (format!("the server certificate cannot be used: {other}"), "renew the certificate on the engine"),
    }
}

/// Returns the name in its debug form: `box` for `DnsName("box")`.
fn bare_name(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest.strip_suffix(')').unwrap_or(rest));
    inner.trim_matches('"')
}

fn format_time(time: UnixTime) -> String {
    let date = i64::try_from(time.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    date.map_or_else(|| "an unknown time".into(), |date| date.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Describes a TLS alert from the server, with a hint.
fn describe_alert(alert: AlertDescription) -> (String, &'static str) {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => ("the server requires a client certificate".into(), CLIENT_CERTIFICATE_HINT),
        A::CertificateExpired => {
            ("the server reports that the client certificate has expired".into(), "renew the client certificate")
        }
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateUnknown
        | A::UnknownCA
        | A::AccessDenied
        | A::DecryptError => {
            ("the server rejects the client certificate, or requires one".into(), CLIENT_CERTIFICATE_HINT)
        }
        A::ProtocolVersion => ("the server supports no secure version of TLS".into(), TLS_VERSION_HINT),
        other => (format!("the server aborted the TLS handshake ({other:?})"), ""),
    }
}
