//! Certificates for TLS, created by the tests that need them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A certificate authority.
pub(crate) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    /// File of its own certificate.
    pub file: PathBuf,
}

/// A certificate and its key, as files.
pub(crate) struct Certificate {
    pub file: PathBuf,
    pub key: PathBuf,
}

impl CertificateAuthority {
    /// Creates an authority, and writes its certificate to `NAME.pem`.
    pub(crate) fn new(dir: &Path, name: &str) -> CertificateAuthority {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let file = dir.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).expect("a certificate").pem()).expect("a file");
        CertificateAuthority { issuer: Issuer::new(params, key), file }
    }

    /// Issues a certificate for a server with these names, or for a client, valid for `valid_days` from two days ago.
    pub(crate) fn issue(&self, dir: &Path, name: &str, names: &[&str], valid_days: u64) -> Certificate {
        let mut params = params(name, names);
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - 2 * day).into();
        params.not_after = (SystemTime::now() - 2 * day + day * u32::try_from(valid_days).expect("some days")).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key_pair = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key_pair, &self.issuer).expect("a certificate");
        let (file, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
        std::fs::write(&file, certificate.pem()).expect("a file");
        std::fs::write(&key, key_pair.serialize_pem()).expect("a file");
        Certificate { file, key }
    }
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
