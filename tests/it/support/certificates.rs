//! Certificates for TLS, made when a test needs them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// Who signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, a file.
    pub file: PathBuf,
}

/// A certificate and its key, as files.
pub(crate) struct Certificate {
    pub file: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// Writes its certificate to `NAME.pem`.
    pub(crate) fn new(folder: &Path, name: &str) -> Authority {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).expect("a certificate").pem()).expect("a file");
        Authority { issuer: Issuer::new(params, key), file }
    }

    /// Signs a certificate for a machine of these names, or a client, valid from a day ago for so many days.
    pub(crate) fn signs(&self, folder: &Path, name: &str, names: &[&str], days: u64) -> Certificate {
        let mut params = params(name, names);
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - 2 * day).into();
        params.not_after = (SystemTime::now() - 2 * day + day * u32::try_from(days).expect("some days")).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&pair, &self.issuer).expect("a certificate");
        let (file, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
        std::fs::write(&file, certificate.pem()).expect("a file");
        std::fs::write(&key, pair.serialize_pem()).expect("a file");
        Certificate { file, key }
    }
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
