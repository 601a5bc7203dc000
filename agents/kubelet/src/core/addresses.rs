//! Addresses for this node's pods out of its range. What pods have already (after a restart) is claimed first.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

#[derive(Clone, Debug)]
pub struct Addresses {
    first: u32,
    last: u32,
    /// Where the search begins, so that an address is not used again at once.
    next: u32,
    /// Invariant: each address is given to at most one pod.
    by_pod: BTreeMap<String, u32>,
}

impl Addresses {
    /// From a range such as `10.244.1.0/24`; network, gateway (.1) and broadcast address are not given out.
    pub fn new(cidr: &str) -> Result<Addresses, String> {
        let bad = || format!("{cidr:?} is not an IPv4 range such as 10.244.1.0/24");
        let (base, bits) = cidr.split_once('/').ok_or_else(bad)?;
        let base = u32::from(base.parse::<Ipv4Addr>().map_err(|_| bad())?);
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        if !(8..=29).contains(&bits) {
            return Err(format!(
                "{cidr:?}: a node's range needs between 8 and 2^24 addresses"
            ));
        }
        let size = 1u32 << (32 - bits);
        let network = base & !(size - 1);
        Ok(Addresses {
            first: network + 2,
            last: network + size - 2,
            next: network + 2,
            by_pod: BTreeMap::new(),
        })
    }

    /// The pod's address, a free one if it has none; `None`: the range is used up.
    pub fn give(&mut self, uid: &str) -> Option<String> {
        if let Some(address) = self.by_pod.get(uid) {
            return Some(Ipv4Addr::from(*address).to_string());
        }
        let taken: std::collections::BTreeSet<u32> = self.by_pod.values().copied().collect();
        let from_next = self.next..=self.last;
        let address = from_next
            .chain(self.first..self.next)
            .find(|a| !taken.contains(a))?;
        self.next = if address == self.last {
            self.first
        } else {
            address + 1
        };
        self.by_pod.insert(uid.to_owned(), address);
        Some(Ipv4Addr::from(address).to_string())
    }

    /// Notes an address that a pod has already. Ignored when it is outside the range or another pod's.
    pub fn claim(&mut self, uid: &str, address: &str) {
        let Ok(address) = address.parse::<Ipv4Addr>().map(u32::from) else {
            return;
        };
        if (self.first..=self.last).contains(&address)
            && !self.by_pod.values().any(|a| *a == address)
        {
            self.by_pod.insert(uid.to_owned(), address);
        }
    }

    pub fn free(&mut self, uid: &str) {
        self.by_pod.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_distinct_kept_and_used_up() {
        let mut addresses = Addresses::new("10.0.0.0/29").expect("a range");
        addresses.claim("old", "10.0.0.3");
        addresses.claim("thief", "10.0.0.3");
        let given: Vec<String> = ["a", "b", "c", "d"]
            .iter()
            .filter_map(|uid| addresses.give(uid))
            .collect();
        assert_eq!(given, ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(addresses.give("old").as_deref(), Some("10.0.0.3"));
        assert_eq!(addresses.give("a").as_deref(), Some("10.0.0.2"));
        assert_eq!(addresses.give("one too many"), None);
        addresses.free("b");
        assert_eq!(addresses.give("e").as_deref(), Some("10.0.0.4"));
    }

    #[test]
    fn bad_ranges_are_named() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/24", "10.0.0.0/30"] {
            assert!(Addresses::new(bad).expect_err("refused").contains(bad));
        }
    }
}
