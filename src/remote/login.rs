//! What a registry wants to know of its clients: `WWW-Authenticate`, with `Basic` (RFC 7617) or with
//! `Bearer` and a token service (distribution's docs/content/spec/auth/token.md and oauth.md).

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Parses the values of `WWW-Authenticate`. A token is preferred. `None`: none of them is known.
    pub fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let mut basic = None;
        for value in values {
            let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if !scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let mut parameters = parameters(rest);
            let mut take = |name: &str| {
                let place =
                    parameters.iter().position(|(key, _)| key.eq_ignore_ascii_case(name))?;
                Some(parameters.swap_remove(place).1)
            };
            if let Some(realm) = take("realm") {
                return Some(Challenge::Bearer {
                    realm,
                    service: take("service"),
                    scope: take("scope"),
                });
            }
        }
        basic
    }
}

/// `name="value",name=value`
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    let mut rest = text;
    while let Some((name, value)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_owned();
        let mut text = String::new();
        let mut end = value.len();
        let (mut is_quoted, mut is_escaped) = (false, false);
        for (place, c) in value.char_indices() {
            match c {
                _ if is_escaped => {
                    text.push(c);
                    is_escaped = false;
                }
                '\\' if is_quoted => is_escaped = true,
                '"' => is_quoted = !is_quoted,
                ',' if !is_quoted => {
                    end = place;
                    break;
                }
                c => text.push(c),
            }
        }
        parameters.push((name, text.trim().to_owned()));
        rest = &value[end..];
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        for (values, want) in [
            (&["Basic realm=\"registry\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (&["Digest realm=\"x\""], None),
            (&[""], None),
            (&["Bearer service=\"x\""], None),
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull,push""#],
                bearer("https://a/t", Some("s"), Some("repository:a:pull,push")),
            ),
            (&["bearer  Realm=https://a, service=x"], bearer("https://a", Some("x"), None)),
            (&[r#"Bearer realm="a\"b\\,",x"#], bearer("a\"b\\,", None, None)),
            (&["Basic realm=\"r\"", "Bearer realm=\"t\""], bearer("t", None, None)),
        ] {
            assert_eq!(Challenge::parse(values.iter().copied()), want, "{values:?}");
        }
    }
}
