//! Names of every sort, out and in again; pages.

use registry::oci::Algorithm;

use crate::common::tree::assert_same;
use crate::fixture::{ODD, SPECIAL, fixture};
use crate::view::{Client, Rows, Shown, by_path, encode, rows, shown};

/// What comes out as a name goes back in as a path.
#[test]
fn round_trip() {
    let fixture = fixture();
    let (image, mut client) = (fixture.image(SPECIAL), Client::new(&fixture.registry));
    let (repository, tag) = SPECIAL.split_once(':').expect("a tag");
    let [v1, v2] =
        [format!("/v1/images/{repository}%3A{tag}/"), format!("/v2/{repository}/_files/")];
    // The same under the repository, and with every byte encoded.
    let ways = |view: &str, entry: &Shown| {
        let all: String = entry.path.iter().map(|byte| format!("%{byte:02X}")).collect();
        [
            format!("{v1}{view}{}", entry.url),
            format!("{v2}{view}/{tag}{}", entry.url),
            format!("{v1}{view}/{all}"),
        ]
    };
    let mut seen = 0;
    for folder in ["umoci", "gnu", "posix", "podman", "sparse"] {
        let path = format!("{v1}tree/{folder}/names?recursive=1");
        for entry in shown(&client.get(&path)) {
            seen += 1;
            let directory = entry.row.kind == "directory";
            for url in ways("tree", &entry) {
                let entries = shown(&client.get(&url));
                if directory {
                    // A file named after its folder, and a link to it.
                    let names: Vec<_> = entries.iter().map(Shown::name).collect();
                    let inner = [b"in ", &entry.name()[..entry.name().len().min(99)]].concat();
                    let want: &[&[u8]] = match entry.name() {
                        b"dir" => &[b"x"],
                        _ => &[&inner, b"link"],
                    };
                    assert_eq!(names, want, "{url}");
                } else {
                    assert_eq!(entries, std::slice::from_ref(&entry), "{url}");
                }
            }
            for url in ways("blobs", &entry) {
                let reply = client.get(&url);
                if directory {
                    assert_eq!(reply.status, 400, "{url}");
                    continue;
                }
                assert_eq!(reply.status, 200, "{url}");
                let digest = Algorithm::Sha256.digest(&reply.body).to_string();
                match &entry.row.digest {
                    Some(want) => assert_eq!(digest, *want, "{url}"),
                    // Through the link, whose target is such a name itself.
                    None => assert_eq!(reply.text(), "content\n", "{url}"),
                }
            }
        }
    }
    assert!(seen > 200, "{seen}");
    let unpacked = rows(&image.unpacked);
    assert!(unpacked.keys().any(|path| std::str::from_utf8(path).is_err()));
}

/// Follows the links from page to page, or asks for the next one itself.
fn pages(client: &mut Client, address: &str, limit: usize, follow: bool) -> Vec<Shown> {
    let separator = if address.contains('?') { '&' } else { '?' };
    let first = format!("{address}{separator}limit={limit}");
    let (mut entries, mut next) = (Vec::new(), Some(first.clone()));
    while let Some(page) = next {
        let reply = client.get(&page);
        let found = shown(&reply);
        let link = reply.header("link").map(str::to_owned);
        assert!(found.len() <= limit, "{page}: {}", found.len());
        assert!(link.is_none() || found.len() == limit, "{page}: short");
        let last = found.last().map(|entry| entry.url.clone());
        next = match (link, last) {
            (Some(link), Some(_)) if follow => {
                let target =
                    link.strip_prefix('<').and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
                Some(target.unwrap_or_else(|| panic!("{link}")).to_owned())
            }
            (Some(_), Some(last)) => Some(format!("{first}&after={last}")),
            (Some(link), None) => panic!("{page} is empty, and goes on at {link}"),
            (None, _) => None,
        };
        entries.extend(found);
    }
    entries
}

/// Every folder by pages is the whole at once.
#[test]
fn page_by_page() {
    let fixture = fixture();
    let mut client = Client::new(&fixture.registry);
    let unpacked = rows(&fixture.image(ODD).unpacked);
    let (mut all, mut folders) = (Rows::new(), vec![Vec::new()]);
    while let Some(folder) = folders.pop() {
        let address = format!("/v1/images/{ODD}/tree/{}", encode(&folder));
        let entries = pages(&mut client, &address, 7, folders.len() % 2 == 0);
        let names: Vec<_> = entries.iter().map(Shown::name).collect();
        assert!(names.is_sorted(), "{address}: {names:?}");
        for entry in &entries {
            let parent = &entry.path[..entry.path.len() - entry.name().len()];
            let parent = parent.strip_suffix(b"/").unwrap_or(parent);
            assert_eq!(parent, folder, "{address}");
            if entry.row.kind == "directory" {
                folders.push(entry.path.clone());
            }
        }
        all.extend(by_path(&entries));
    }
    assert_same("by folders and pages", &all, &unpacked);

    for follow in [true, false] {
        let address = format!("/v1/images/{ODD}/tree/?recursive=1");
        let entries = pages(&mut client, &address, 97, follow);
        assert_same("by pages of the whole", &by_path(&entries), &unpacked);
    }
}
