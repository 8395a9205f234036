//! The client's address behind reverse proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address that it was contacted from, so only the end of the list can be
//! believed. The list is read from its end while the entries are addresses of trusted proxies. What
//! stands before the first other address may have been written by the client.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::header::{FORWARDED, HeaderMap, HeaderName};

use crate::log::Client;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A network in CIDR notation, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let wrong = || format!("{text:?} is not a network such as 10.0.0.0/8 or an address");
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if address != address.to_canonical() {
            return Err(format!("{text:?} is an IPv4 network in IPv6 form: write it as IPv4"));
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix.parse().ok().filter(|&n| n <= bits).ok_or_else(wrong)?,
        };
        Ok(Network { address, prefix })
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let different = network.to_bits() ^ address.to_bits();
                different.checked_shr(32 - prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let different = network.to_bits() ^ address.to_bits();
                different.checked_shr(128 - prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Returns the client's address for a request that came from `peer`.
///
/// If both headers are there and disagree, the client has written one of them, and nothing tells
/// which. The address is then the proxy's.
pub fn client(trusted: &[Network], peer: SocketAddr, headers: &HeaderMap) -> Client {
    let peer = Client::from(peer);
    let is_trusted = |ip| trusted.iter().any(|network| network.contains(ip));
    if !is_trusted(peer.ip) {
        return peer;
    }
    let found = [(X_FORWARDED_FOR, plain as fn(&str) -> Option<Client>), (FORWARDED, forwarded)]
        .map(|(name, parse)| {
            let mut seen = None;
            for line in headers.get_all(name).iter().rev() {
                // Split at every comma, quoted or not: a quote that the client opened must not
                // hide what a proxy appended.
                let entries = line.to_str().unwrap_or_default().rsplit(',');
                for entry in entries {
                    let Some(hop) = parse(entry.trim()) else { return seen.or(Some(peer)) };
                    seen = Some(hop);
                    if !is_trusted(hop.ip) {
                        return seen;
                    }
                }
            }
            seen
        });
    match found {
        [Some(one), Some(other)] if one.ip != other.ip => peer,
        [one, other] => one.or(other).unwrap_or(peer),
    }
}

/// Parses an address, or an address and a port. IPv6 may stand in brackets.
fn plain(entry: &str) -> Option<Client> {
    if let Ok(address) = entry.parse::<SocketAddr>() {
        return Some(Client::from(address));
    }
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(entry).parse().ok()?;
    Some(Client { ip: ip.to_canonical(), port: None })
}

/// Parses the `for` of an element of `Forwarded`, such as `for="[2001:db8::1]:4711";proto=https`.
fn forwarded(element: &str) -> Option<Client> {
    if !element.matches('"').count().is_multiple_of(2) {
        return None;
    }
    let mut nodes = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value.trim())
    });
    let (node, None) = (nodes.next()?, nodes.next()) else {
        return None;
    };
    let quoted = node.strip_prefix('"').and_then(|node| node.strip_suffix('"'));
    plain(quoted.unwrap_or(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let holds = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        for (network, address, want) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.1.2.3/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "::10.0.0.1", false),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1", "::1", true),
        ] {
            assert_eq!(holds(network, address), want, "{network} {address}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "x/8", "10/8", "::ffff:10.0.0.1"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    fn found(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "::1"].map(|network| network.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        client(&trusted, peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn lists_are_read_from_their_end() {
        let proxy = "10.0.0.1:99";
        for (value, want) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:4711", "192.0.2.1:4711"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "[2001:db8::1]:4711"),
            ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
            ("198.51.100.9, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("198.51.100.9, unknown", proxy),
            ("198.51.100.9, unknown, 10.0.0.2", "10.0.0.2"),
            ("", proxy),
            (",", proxy),
        ] {
            assert_eq!(found(proxy, &[("x-forwarded-for", value)]), want, "{value}");
        }
        for (value, want) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("FOR = \"[2001:db8::1]:4711\" ;proto=https", "[2001:db8::1]:4711"),
            ("for=198.51.100.9, by=10.0.0.1;for=192.0.2.1", "192.0.2.1"),
            ("for=\", for=192.0.2.1", "192.0.2.1"),
            ("for=198.51.100.9, for=192.0.2.1;host=\"x, for=198.51.100.9\"", proxy),
            ("for=192.0.2.1;for=198.51.100.9", proxy),
            ("for=198.51.100.9, for=_hidden", proxy),
            ("proto=https", proxy),
        ] {
            assert_eq!(found(proxy, &[("forwarded", value)]), want, "{value}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let (plain, standard) = ("x-forwarded-for", "forwarded");
        assert_eq!(found("192.0.2.1:99", &[(plain, "198.51.100.9")]), "192.0.2.1:99");
        assert_eq!(found("10.0.0.1:99", &[]), "10.0.0.1:99");
        assert_eq!(found("[::ffff:10.0.0.1]:99", &[(plain, "192.0.2.1")]), "192.0.2.1");
        let lines = [(plain, "198.51.100.9"), (plain, "192.0.2.1, 10.0.0.2")];
        assert_eq!(found("[::1]:99", &lines), "192.0.2.1");
        let agree = [(plain, "192.0.2.1"), (standard, "for=192.0.2.1")];
        assert_eq!(found("10.0.0.1:99", &agree), "192.0.2.1");
        let disagree = [(plain, "192.0.2.1"), (standard, "for=198.51.100.9")];
        assert_eq!(found("10.0.0.1:99", &disagree), "10.0.0.1:99");
    }
}
