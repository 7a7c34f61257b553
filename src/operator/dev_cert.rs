use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Hosts of the certificate.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Validity of the certificate. Some clients reject certificates that are valid for more than 398
/// days.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Create a certificate for localhost, to try HTTPS
#[derive(Debug, clap::Args)]
pub struct DevCert {
    /// Directory for cert.pem and key.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Replace existing files
    #[arg(long)]
    force: bool,
}

impl DevCert {
    /// Writes `cert.pem` and `key.pem`, and prints how to use them.
    ///
    /// # Errors
    /// When the files exist (without `--force`) or cannot be written.
    pub fn run(&self) -> anyhow::Result<()> {
        let (cert, key) = (self.out.join("cert.pem"), self.out.join("key.pem"));
        if !self.force
            && let Some(existing) = [&cert, &key].into_iter().find(|path| path.exists())
        {
            bail!("{} already exists; --force replaces it", existing.display());
        }
        let pair = generate().context("cannot create a certificate")?;
        fs::create_dir_all(&self.out).with_context(|| format!("cannot create {}", self.out.display()))?;
        write(&key, &pair.key, 0o600)?;
        write(&cert, &pair.chain, 0o644)?;
        explain(&cert, &key).context("cannot write to standard output")
    }
}

struct PemPair {
    chain: String,
    key: String,
}

/// Creates a certificate authority, signs one certificate with it, and discards its key: a client
/// that trusts `cert.pem` trusts only this certificate.
fn generate() -> Result<PemPair, rcgen::Error> {
    let mut authority = params("Lockable development authority", vec![])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let mut server = params("localhost", HOSTS.map(String::from).to_vec())?;
    server.use_authority_key_identifier_extension = true;
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let server = server.signed_by(&key, &authority)?;

    Ok(PemPair { chain: server.pem() + &authority.pem(), key: key.serialize_pem() })
}

fn params(common_name: &str, hosts: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + VALIDITY).into();
    Ok(params)
}

/// Replaces the file instead of writing into it: an existing file would keep its owner and mode.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let write = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(text.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn explain(cert: &Path, key: &Path) -> io::Result<()> {
    let (cert, key) = (cert.display(), key.display());
    writeln!(
        io::stdout(),
        "\
Wrote {cert} and {key}, valid for {} for one year.

Serve HTTPS with them:
    lockable serve --tls-cert {cert} --tls-key {key}

Use the certificate with curl:
    curl --cacert {cert} https://localhost:8080/v1/acquire/my-lock-name -u $TOKEN:

Use the certificate with Python's requests:
    export REQUESTS_CA_BUNDLE={cert}",
        HOSTS.join(", ")
    )
}
