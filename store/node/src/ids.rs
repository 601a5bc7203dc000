//! Member and cluster ids, by etcd's rule for a static bootstrap: clients and tools compare them with etcd's own.
//! Pure; not here: where the URLs come from.

use barque_store_state::MemberId;
use sha1::{Digest, Sha1};

fn first_eight(hash: &[u8]) -> u64 {
    u64::from_be_bytes(hash[..8].try_into().expect("a sha1 has 20 bytes"))
}

/// First 8 bytes of sha1(sorted peer URLs, concatenated, then the cluster token).
pub fn member_id(peer_urls: &[String], cluster_token: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url.as_bytes());
    }
    hash.update(cluster_token.as_bytes());
    MemberId(first_eight(hash.finalize().as_ref()))
}

/// The same with a decimal number at the end. etcd takes the second of the day it was added; any number that does not come
/// twice keeps a removed member's id from coming back.
pub fn added_member_id(peer_urls: &[String], cluster_token: &str, salt: u64) -> MemberId {
    member_id(peer_urls, &format!("{cluster_token}{salt}"))
}

/// First 8 bytes of sha1(member ids in ascending order, big endian).
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> u64 {
    let mut ids: Vec<u64> = members.into_iter().map(|m| m.0).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash.finalize().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of a real etcd 3.5.16 started with `--name default` and its default flags.
    #[test]
    fn ids_are_etcds() {
        let member = member_id(&["http://localhost:2380".into()], "etcd-cluster");
        assert_eq!(format!("{:x}", member.0), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([member])), "cdf818194e3a8c32");
    }
}
