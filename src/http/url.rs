//! Parts of a URL: percent-encoding, names and queries.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::error::Error;
use crate::oci::Repository;

/// The first part of a path, and the rest without its leading slash.
pub fn part(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

/// Decoded after splitting, so an encoded slash separates nothing.
pub fn decoded(part: &str) -> Result<Cow<'_, str>, Error> {
    percent_decode_str(part).decode_utf8().map_err(|_| Error::RouteUnknown)
}

/// A repository's name. Proxies and browsers write its slashes as `%2F`.
pub fn repository(name: &str) -> Result<Repository, Error> {
    match percent_decode_str(name).decode_utf8() {
        Ok(name) => Ok(name.parse()?),
        Err(_) => Err(crate::oci::NameError::Repository(name.chars().take(255).collect()).into()),
    }
}

/// The parameter that is a path of an image: bytes, which need not be UTF-8.
const PATH_PARAMETER: &str = "after";

/// The first [`PATH_PARAMETER`] of a query string, decoded.
pub fn path_parameter(query: Option<&str>) -> Option<Vec<u8>> {
    pairs(query)
        .find(|(key, _)| *key == PATH_PARAMETER)
        .map(|(_, value)| percent_decode_str(value).collect())
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The other parameters of a query string, decoded, in order. `+` is a plus
/// sign: media types have them, and no client writes a blank so.
pub fn query(query: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    let decode = |s: &str| match percent_decode_str(s).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Error::Query(crate::log::escape(s.as_bytes()))),
    };
    pairs(query)
        .filter(|(key, _)| *key != PATH_PARAMETER)
        .map(|(key, value)| Ok((decode(key)?, decode(value)?)))
        .collect()
}

/// The fields of a form, as browsers send them: `+` is a blank (URL standard, 5).
pub fn form(text: Option<&str>) -> Result<Vec<(String, String)>, Error> {
    query(text.map(|text| text.replace('+', "%20")).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let pairs =
            query(Some("digest=sha256%3Aab&tag=1&tag=2&artifactType=a/b+json&flag&=x&&")).unwrap();
        let want = [
            ("digest", "sha256:ab"),
            ("tag", "1"),
            ("tag", "2"),
            ("artifactType", "a/b+json"),
            ("flag", ""),
            ("", "x"),
        ];
        assert_eq!(pairs, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
        assert!(query(Some("n=%ff")).is_err());
        assert_eq!(query(Some("after=%ff")).unwrap(), [], "a path");
        for (text, want) in [
            ("n=1&after=/%ff+%20&after=b", Some(&b"/\xff+ "[..])),
            ("after", Some(b"")),
            ("n=after", None),
        ] {
            assert_eq!(path_parameter(Some(text)).as_deref(), want, "{text}");
        }
        assert_eq!(query(None).unwrap(), []);
        let fields = form(Some("q=a+b%2Bc&x=")).unwrap();
        assert_eq!(fields, [("q", "a b+c"), ("x", "")].map(|(k, v)| (k.into(), v.into())));
    }
}
