//! Whether flags fit each other, before anything is opened. Values that are empty or false ask for nothing.

use super::StoreFlags;
use super::urls::{address, is_loopback};
use crate::Failure;

fn refused<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::new(text.into()))
}

impl StoreFlags {
    /// Refuses flags that contradict each other, with their names; gives what is taken but is worth a warning.
    pub fn check(&self) -> Result<Vec<String>, Failure> {
        self.check_files()?;
        let warnings = self.check_client_urls()?;
        self.check_peer_urls()?;
        Ok(warnings)
    }

    fn check_files(&self) -> Result<(), Failure> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return refused("--cert-file and --key-file go together: give both or neither");
        }
        if self.client_cert_auth && self.trusted_ca_file.is_none() {
            return refused(
                "--client-cert-auth asks for clients' certificates: give --trusted-ca-file, the CA that signs them",
            );
        }
        Ok(())
    }

    fn check_client_urls(&self) -> Result<Vec<String>, Failure> {
        for (flag, urls) in [
            ("listen-client-urls", &self.listen_client_urls[..]),
            ("listen-metrics-urls", self.metrics_urls()),
        ] {
            for url in urls.iter() {
                let (_, secure) = address(flag, url)?;
                if secure && self.cert_file.is_none() {
                    return refused(format!(
                        "--{flag}: {url} asks for https; give --cert-file and --key-file"
                    ));
                }
            }
        }
        for url in self
            .advertise_client_urls
            .iter()
            .flat_map(|urls| urls.iter())
        {
            address("advertise-client-urls", url)?;
        }
        if self.advertise_client_urls.is_none()
            && self.listen_client_urls != super::default_clients()
        {
            return refused(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            );
        }
        self.check_plain_clients()
    }

    /// Certificates protect https URLs only.
    fn check_plain_clients(&self) -> Result<Vec<String>, Failure> {
        let any_secure = self
            .listen_client_urls
            .iter()
            .any(|url| url.starts_with("https://"));
        let mut warnings = Vec::new();
        for url in self.listen_client_urls.iter() {
            let (host_port, secure) = address("listen-client-urls", url)?;
            if secure {
                continue;
            }
            // A plain way in for this machine alone, beside the secured one, is common and asked for by name.
            if self.client_cert_auth && !(any_secure && is_loopback(&host_port)) {
                return refused(format!(
                    "--client-cert-auth: {url} of --listen-client-urls lets everybody in without a certificate; make it https"
                ));
            }
            if self.client_cert_auth || self.cert_file.is_some() || self.trusted_ca_file.is_some() {
                warnings.push(format!(
                    "--listen-client-urls: {url} is served in plain text to everybody; --cert-file, --key-file and --trusted-ca-file are for https URLs"
                ));
            }
        }
        Ok(warnings)
    }

    fn check_peer_urls(&self) -> Result<(), Failure> {
        for url in self.listen_peer_urls.iter() {
            address("listen-peer-urls", url)?;
        }
        for url in self.initial_advertise_peer_urls.iter() {
            address("initial-advertise-peer-urls", url)?;
        }
        let [listen] = &self.listen_peer_urls[..] else {
            return refused(format!(
                "--listen-peer-urls: peers are listened for on one URL, not on {}; name one, with host 0.0.0.0 for all addresses",
                self.listen_peer_urls.join(",")
            ));
        };
        let secure = listen.starts_with("https://");
        let files = [
            &self.peer_cert_file,
            &self.peer_key_file,
            &self.peer_trusted_ca_file,
        ];
        let given = files.iter().filter(|file| file.is_some()).count();
        match (secure, given) {
            (true, 3) => Ok(()),
            (true, _) => refused(
                "--listen-peer-urls asks for https: give --peer-cert-file, --peer-key-file and --peer-trusted-ca-file",
            ),
            (false, 1..) => refused(
                "--peer-cert-file, --peer-key-file and --peer-trusted-ca-file are for https, but --listen-peer-urls does not say https",
            ),
            (false, 0) if self.peer_client_cert_auth => refused(
                "--peer-client-cert-auth asks for peers' certificates, but --listen-peer-urls does not say https",
            ),
            (false, 0) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: StoreFlags,
    }

    fn check(flags: &str) -> Result<Vec<String>, String> {
        let words = std::iter::once("etcd").chain(flags.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        line.flags.check().map_err(|e| e.to_string())
    }

    const SECURE: &str = "--cert-file=c --key-file=k --trusted-ca-file=a --client-cert-auth \
        --advertise-client-urls=https://h:2379";

    #[test]
    fn flags_that_fit_are_taken() {
        for (flags, warnings) in [
            (String::new(), 0),
            (
                format!("{SECURE} --listen-client-urls=https://0.0.0.0:2379"),
                0,
            ),
            (
                format!(
                    "{SECURE} --listen-client-urls=https://10.0.0.1:2379,http://127.0.0.1:2379"
                ),
                1,
            ),
            ("--cert-file=c --key-file=k".to_owned(), 1),
            (
                "--client-cert-auth=false --peer-client-cert-auth=false".to_owned(),
                0,
            ),
            (
                "--listen-peer-urls=https://h:2380 --peer-cert-file=c --peer-key-file=k \
                 --peer-trusted-ca-file=a --peer-client-cert-auth"
                    .to_owned(),
                0,
            ),
        ] {
            let told = check(&flags).unwrap_or_else(|e| panic!("{flags}: {e}"));
            assert_eq!(told.len(), warnings, "{flags}: {told:?}");
        }
    }

    #[test]
    fn flags_that_do_not_are_refused_by_name() {
        let plain = format!("{SECURE} --listen-client-urls=http://0.0.0.0:2379");
        let here = format!("{SECURE} --listen-client-urls=http://127.0.0.1:2379");
        let mixed =
            format!("{SECURE} --listen-client-urls=https://10.0.0.1:2379,http://10.0.0.1:2378");
        for (flags, text) in [
            (plain.as_str(), "--client-cert-auth: http://0.0.0.0:2379 of"),
            (
                here.as_str(),
                "--client-cert-auth: http://127.0.0.1:2379 of",
            ),
            (
                mixed.as_str(),
                "--client-cert-auth: http://10.0.0.1:2378 of",
            ),
            ("--client-cert-auth", "--trusted-ca-file"),
            ("--cert-file=c", "--cert-file and --key-file go together"),
            ("--key-file=k", "--cert-file and --key-file go together"),
            (
                "--advertise-client-urls=10.0.0.1:2379",
                "--advertise-client-urls: \"10.0.0.1:2379\" is not a URL",
            ),
            (
                "--listen-client-urls=http://h:1",
                "--advertise-client-urls is required",
            ),
            (
                "--listen-metrics-urls=https://h:1",
                "--listen-metrics-urls: https://h:1 asks for https",
            ),
            (
                "--listen-peer-urls=http://a:1,http://b:2",
                "--listen-peer-urls: peers are listened for on one URL",
            ),
            (
                "--listen-peer-urls=http://a:1,b",
                "--listen-peer-urls: \"b\" is not a URL",
            ),
            (
                "--initial-advertise-peer-urls=a:1",
                "--initial-advertise-peer-urls: \"a:1\"",
            ),
            ("--listen-peer-urls=https://a:1", "give --peer-cert-file"),
            ("--peer-cert-file=c", "does not say https"),
            (
                "--peer-client-cert-auth",
                "--peer-client-cert-auth asks for",
            ),
        ] {
            let told = check(flags).expect_err(flags);
            assert!(told.contains(text), "{flags}: {told}");
        }
    }
}
