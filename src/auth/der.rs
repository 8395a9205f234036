//! The little of DER (X.690) that keys and signatures need: what holds a public
//! key, an RSA key of two numbers, and the two forms of an ECDSA signature.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// The first value of that tag, and what follows it.
fn read(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // How many bytes the length has: one or two are enough here.
        _ => {
            let bytes = usize::from(first & 0x7f);
            if !(1..=2).contains(&bytes) {
                return None;
            }
            let (length, rest) = rest.split_at_checked(bytes)?;
            let length = length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
            (length, rest)
        }
    };
    let (value, rest) = rest.split_at_checked(length)?;
    (*found == tag).then_some((value, rest))
}

/// The only value there is.
fn whole(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (value, rest) = read(tag, bytes)?;
    rest.is_empty().then_some(value)
}

fn write(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut bytes = vec![tag];
    match length {
        0..0x80 => bytes.push(length as u8),
        0x80..0x100 => bytes.extend([0x81, length as u8]),
        _ => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend(value);
    bytes
}

/// A number from 0 on, its bytes big-endian.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|&b| b != 0).unwrap_or(bytes.len());
    let mut value = bytes[start..].to_vec();
    // The highest bit would be a sign.
    if value.first().is_none_or(|&b| b >= 0x80) {
        value.insert(0, 0);
    }
    write(INTEGER, &value)
}

/// The algorithm and the key of a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
pub fn public_key(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let info = whole(SEQUENCE, info)?;
    let (algorithm, key) = read(SEQUENCE, info)?;
    // Before the bits stands how many of the last byte are none.
    let key = whole(BIT_STRING, key)?.strip_prefix(&[0])?;
    Some((algorithm, key))
}

/// An RSAPublicKey (RFC 8017, A.1.1) of a modulus and an exponent.
pub fn rsa_key(n: &[u8], e: &[u8]) -> Vec<u8> {
    write(SEQUENCE, &[integer(n), integer(e)].concat())
}

/// An Ecdsa-Sig-Value (RFC 3279, 2.2.3) of the two numbers of equal length that JWS
/// has (RFC 7518, 3.4).
pub fn ecdsa_signature(signature: &[u8]) -> Option<Vec<u8>> {
    const NUMBER: usize = 32;
    let (r, s) = signature.split_at_checked(NUMBER)?;
    let numbers = [integer(r), integer(s)].concat();
    (s.len() == NUMBER).then(|| write(SEQUENCE, &numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (bytes, want) in [
            (&[][..], &[2, 1, 0][..]),
            (&[0, 0], &[2, 1, 0]),
            (&[0, 1], &[2, 1, 1]),
            (&[0x7f], &[2, 1, 0x7f]),
            (&[0x80], &[2, 2, 0, 0x80]),
        ] {
            assert_eq!(integer(bytes), want);
        }
        let long = rsa_key(&[0xff; 256], &[1, 0, 1]);
        assert_eq!(long[..9], [0x30, 0x82, 1, 10, 2, 0x82, 1, 1, 0]);
        assert_eq!(long[long.len() - 5..], [2, 3, 1, 0, 1]);
        assert_eq!(ecdsa_signature(&[0x80; 64]).map(|der| der.len()), Some(72));
        assert_eq!(ecdsa_signature(&[1; 63]), None);
        assert_eq!(ecdsa_signature(&[1; 65]), None);
    }

    #[test]
    fn keys() {
        let info = [0x30, 8, 0x30, 2, 5, 0, 3, 2, 0, 7];
        assert_eq!(public_key(&info), Some((&[5, 0][..], &[7][..])));
        for n in 0..info.len() {
            assert_eq!(public_key(&info[..n]), None, "cut at {n}");
        }
        for (at, byte) in [(0, 0x31), (1, 9), (2, 3), (6, 4), (8, 1), (1, 0x80), (1, 0x84)] {
            let mut broken = info;
            broken[at] = byte;
            assert_eq!(public_key(&broken), None, "{at}");
        }
        assert_eq!(public_key(&[&info[..], &[0]].concat()), None, "something follows");
    }
}
