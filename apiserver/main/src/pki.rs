//! The certificates of a cluster that `barque up` makes: two authorities (the cluster's, and the store's own), and a leaf for
//! each process and for the administrator.
//! Promise: what is on disk already is kept; private keys are readable by their owner only.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};

use crate::Failure;

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    fn at(dir: &Path, name: &str) -> Pair {
        Pair {
            cert: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        }
    }
}

/// What a leaf certificate says and is good for.
pub struct Leaf<'a> {
    /// File name without ending.
    pub file: &'a str,
    /// Subject CN: for clients of the gateway, the user.
    pub common_name: &'a str,
    /// Subject O: for clients of the gateway, the groups.
    pub organizations: &'a [&'a str],
    /// Names and addresses a server is reached by.
    pub names: &'a [&'a str],
    pub server: bool,
    pub client: bool,
}

/// An authority whose key lies on this machine.
pub struct Authority {
    dir: PathBuf,
    pub cert: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Ten years, as kubeadm gives its authorities.
const AUTHORITY_DAYS: i64 = 3650;
/// One year, as kubeadm gives its leaves.
const LEAF_DAYS: i64 = 365;

fn made(what: &Path) -> impl Fn(rcgen::Error) -> Failure + '_ {
    move |cause| Failure::new(format!("cannot make {}: {cause}", what.display()))
}

impl Authority {
    /// Opens `NAME.crt` and `NAME.key` under `dir`, or makes them.
    pub fn open(dir: &Path, name: &str, common_name: &str) -> Result<Authority, Failure> {
        fs::create_dir_all(dir)
            .map_err(|cause| Failure::new(format!("cannot create {}: {cause}", dir.display())))?;
        let pair = Pair::at(dir, name);
        if !pair.cert.exists() {
            let key = KeyPair::generate().map_err(made(&pair.key))?;
            let mut params = CertificateParams::default();
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            valid_for(&mut params, AUTHORITY_DAYS)?;
            let cert = params.self_signed(&key).map_err(made(&pair.cert))?;
            write(&pair.key, &key.serialize_pem(), 0o600)?;
            write(&pair.cert, &cert.pem(), 0o644)?;
        }
        let cert_pem = read(&pair.cert)?;
        let key = KeyPair::from_pem(&read(&pair.key)?).map_err(made(&pair.key))?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(made(&pair.cert))?;
        Ok(Authority {
            dir: dir.to_owned(),
            cert: pair.cert,
            issuer,
        })
    }

    /// The leaf's files, made if they are not there.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Result<Pair, Failure> {
        let pair = Pair::at(&self.dir, leaf.file);
        if pair.cert.exists() && pair.key.exists() {
            return Ok(pair);
        }
        let names: Vec<String> = leaf.names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(made(&pair.cert))?;
        params
            .distinguished_name
            .push(DnType::CommonName, leaf.common_name);
        for organization in leaf.organizations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if leaf.server {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if leaf.client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, LEAF_DAYS)?;
        let key = KeyPair::generate().map_err(made(&pair.key))?;
        let cert = params
            .signed_by(&key, &self.issuer)
            .map_err(made(&pair.cert))?;
        write(&pair.key, &key.serialize_pem(), 0o600)?;
        write(&pair.cert, &cert.pem(), 0o644)?;
        Ok(pair)
    }
}

/// From an hour ago (clocks differ a little between machines) for that many days, with a random serial number.
fn valid_for(params: &mut CertificateParams, days: i64) -> Result<(), Failure> {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(days);
    let mut serial = [0u8; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut serial)
        .map_err(|_| {
            Failure::new("the system gave no random numbers for a certificate's serial".into())
        })?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

pub fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|cause| Failure::new(format!("cannot read {}: {cause}", path.display())))
}

/// Writes a file through a temporary name, so that a crash leaves the old one or the new one.
pub fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let temporary = path.with_extension("new");
    let failed =
        |cause: std::io::Error| Failure::new(format!("cannot write {}: {cause}", path.display()));
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}
