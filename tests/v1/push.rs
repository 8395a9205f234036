//! Pushes and pulls that go well, or break off and are taken up again.

use std::io::{Read, Write};

use bzip2::read::BzEncoder;
use liblzma::read::XzEncoder;
use registry::oci::Algorithm;
use serde_json::json;

use crate::client::{
    Image, at, chain, id, list, ok, pull, push, push_image, put_checksum, put_json, put_layer,
    put_tag,
};
use crate::common::tar::Tar;
use crate::common::{Registry, eventually, noise};

#[test]
fn pushed_and_pulled() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    push(&registry, "team/old", "1", &images);
    assert_eq!(pull(&registry, "team/old", "1"), images, "byte for byte");

    // The JSON's headers; the layer's, and its ranges.
    let base = &images[0];
    let json = registry.get(&at(&base.id, "json"));
    let checksum = base.checksum();
    assert_eq!(json.header("content-type"), Some("application/json"));
    for name in ["x-docker-checksum", "x-docker-checksum-payload"] {
        assert_eq!(json.header(name), Some(checksum.as_str()));
    }
    let length = base.layer.len();
    let head = registry.head(&at(&base.id, "layer"));
    assert_eq!(head.header("content-length"), Some(&length.to_string()[..]));
    assert!(head.body.is_empty());
    let part = registry.send("GET", &at(&base.id, "layer"), &[("Range", "bytes=7-")], b"");
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), Some(&format!("bytes 7-{}/{length}", length - 1)[..]));
    assert_eq!(part.body, base.layer[7..]);
    let beyond = [("Range", "bytes=99999999-")];
    let beyond = registry.send("GET", &at(&base.id, "layer"), &beyond, b"");
    assert_eq!(beyond.status, 416);

    // What a layer has by itself.
    let files = registry.get(&at(&images[2].id, "files")).json();
    let time = 1_000_000_000;
    assert_eq!(
        files,
        json!([
            ["/etc", "d", false, 0, time, 0o755, 0, 0],
            // A name that is removed has nothing else.
            ["/etc/gone", "f", true, 0, 0, 0o755, 0, 0],
            ["/etc/link", "s", false, 5, time, 0o777, 0, 0],
        ])
    );
    assert_eq!(registry.get(&at(&images[1].id, "files")).json(), json!([]));
}

/// What the server says around the images.
#[test]
fn headers_of_a_push() {
    let registry = Registry::start(&[]);
    let ping = registry.get("/v1/_ping");
    assert_eq!(ping.header("x-docker-registry-standalone"), Some("True"));
    assert!(ping.header("x-docker-registry-version").is_some());
    let images = chain("a");
    for path in ["/v1/repositories/team/old", "/v1/repositories/team/old/"] {
        let reply = registry.send("PUT", path, &[("X-Docker-Token", "true")], &list(&images));
        assert_eq!(reply.status, 200);
        let token = reply.header("x-docker-token").expect("a token");
        assert!(token.contains(r#"repository="team/old",access=write"#), "{token}");
        let challenge = format!("Token {token}");
        assert_eq!(reply.header("www-authenticate"), Some(challenge.as_str()));
        assert_eq!(reply.header("x-docker-endpoints"), Some(&registry.host()[..]));
    }
    let auth = registry.send("PUT", "/v1/repositories/team/old/auth", &[], b"");
    assert_eq!(auth.status, 200);
    let tagless = registry.get("/v1/repositories/team/old/tags");
    assert_eq!(tagless.status, 404, "nothing was pushed to it");
    push(&registry, "team/old", "1", &images);
    let reply = registry.get("/v1/repositories/team/old/images");
    let token = reply.header("x-docker-token").expect("a token");
    assert!(token.contains(r#"repository="team/old",access=read"#), "{token}");
}

/// Every compression that a layer came in.
#[test]
fn compressions() {
    let registry = Registry::start(&[]);
    let tar = Tar::default().file("file", b"content").finish();
    let mut bzip2 = Vec::new();
    let level = bzip2::Compression::best();
    BzEncoder::new(&tar[..], level).read_to_end(&mut bzip2).unwrap();
    let mut xz = Vec::new();
    XzEncoder::new(&tar[..], 6).read_to_end(&mut xz).unwrap();
    let plain = "application/vnd.docker.image.rootfs.diff.tar";
    let packed = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    for (name, layer, media_type) in
        [("tar", tar.clone(), plain), ("bzip2", bzip2, packed), ("xz", xz, packed)]
    {
        let images = [Image::new(name, None, layer.clone())];
        push(&registry, "team/old", name, &images);
        assert_eq!(pull(&registry, "team/old", name), images);
        let manifest = registry.get(&format!("/v2/team/old/manifests/{name}")).json();
        let digest = Algorithm::Sha256.digest(&layer).to_string();
        let size = layer.len();
        let want = json!([{"mediaType": media_type, "size": size, "digest": digest}]);
        assert_eq!(manifest["layers"], want, "{name}");
        let config = manifest["config"]["digest"].as_str().expect("a digest");
        let config = registry.get(&format!("/v2/team/old/blobs/{config}")).json();
        let diff_id = Algorithm::Sha256.digest(&tar).to_string();
        assert_eq!(config["rootfs"]["diff_ids"], json!([diff_id]), "{name}");
        let file = registry.get(&at(&images[0].id, "blobs/file"));
        assert_eq!(file.text(), "content", "{name}");
    }
}

/// An image is seen when its checksum was right, not before.
#[test]
fn invisible_until_it_is_complete() {
    let registry = Registry::start(&[]);
    // Before the catalog is complete, nobody can tell what an id is not.
    assert_eq!(registry.get("/v2/_catalog").status, 200);
    let image = &chain("a")[0];
    let unseen = |why: &str| {
        for part in ["json", "layer", "ancestry", "files", "tree/"] {
            let reply = registry.get(&at(&image.id, part));
            assert_eq!(reply.status, 404, "{why}: {part}");
        }
        let reply = put_tag(&registry, "a", "1", &image.id);
        assert_eq!(reply.status, 404, "{why}: tag");
    };
    unseen("nothing came");
    ok(put_json(&registry, image), "json");
    unseen("its JSON came");
    ok(put_layer(&registry, image), "layer");
    unseen("its layer came");
    ok(put_checksum(&registry, image, &image.checksum()), "checksum");
    assert_eq!(registry.get(&at(&image.id, "json")).body, image.json);
    ok(put_tag(&registry, "a", "1", &image.id), "tag");
}

/// A push that stopped anywhere is begun again, or gone on with.
#[test]
fn pushed_again() {
    let registry = Registry::start(&[]);
    let [first, again] = ["first", "again"].map(|seed| {
        let tar = Tar::default().file("file", seed.as_bytes()).finish();
        Image::new("one", None, tar)
    });
    assert_eq!(first.json, again.json, "tars have one length");
    ok(put_json(&registry, &first), "json");
    ok(put_json(&registry, &first), "json once more");
    ok(put_layer(&registry, &first), "a layer");
    // Of two layers, the checksum says which one it is.
    ok(put_layer(&registry, &again), "another");
    ok(put_checksum(&registry, &first, &first.checksum()), "checksum");
    assert_eq!(registry.get(&at(&first.id, "layer")).body, first.layer);
}

/// A layer that was lost, to a garbage collector that does not know of images
/// without a tag, is pushed again.
#[test]
fn lost_layer() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    push(&registry, "a", "1", &images);
    let hex = Algorithm::Sha256.digest(&images[0].layer).hex();
    let blob = registry.store().join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
    std::fs::remove_file(blob).unwrap();
    assert_eq!(registry.get(&at(&images[0].id, "json")).status, 404);
    assert_eq!(registry.get(&at(&images[0].id, "layer")).status, 404);
    push(&registry, "a", "1", &images);
    assert_eq!(pull(&registry, "a", "1"), images);
}

/// The connection breaks in the middle of a layer, which is not kept.
#[test]
fn cut_off() {
    let registry = Registry::start(&[]);
    let image = Image::new("cut", None, noise(1, 300_000));
    ok(put_json(&registry, &image), "json");
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        at(&image.id, "layer"),
        image.layer.len()
    );
    let mut stream = registry.connect();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&image.layer[..200_000]).unwrap();
    drop(stream);
    let scratch = registry.store().join("_tmp");
    eventually("nothing is left of it", || {
        std::fs::read_dir(&scratch).unwrap().next().is_none()
            && registry.log().contains("status=400")
    });
    let reply = put_checksum(&registry, &image, &image.checksum());
    assert_eq!(reply.status, 409, "{}", reply.text());
    ok(put_layer(&registry, &image), "the whole of it");
    ok(put_checksum(&registry, &image, &image.checksum()), "checksum");
}

/// A pull that was cut off goes on where it stopped.
#[test]
fn resumed_pull() {
    let registry = Registry::start(&[]);
    let tar = Tar::default().file("noise", &noise(2, 3_000_000)).finish();
    let images = [Image::new("large", None, tar)];
    push(&registry, "a", "1", &images);
    let path = at(&images[0].id, "layer");
    let mut stream = registry.connect();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let mut first = vec![0; 1_000_000];
    stream.read_exact(&mut first).unwrap();
    drop(stream);
    let body = first.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let first = first.split_off(body);
    let range = format!("bytes={}-", first.len());
    let rest = registry.send("GET", &path, &[("Range", &range)], b"");
    assert_eq!(rest.status, 206);
    assert_eq!([first, rest.body].concat(), images[0].layer);
}

/// The server is killed after each step; the client goes on.
#[test]
fn killed_in_the_middle() {
    let temp = tempfile::tempdir().unwrap();
    let images = chain("k");
    let base = &images[0];
    let mut registry = Registry::start_in(temp.path(), &[]);
    let again = |registry: &mut Registry| {
        registry.kill();
        *registry = Registry::start_in(temp.path(), &[]);
    };
    ok(put_json(&registry, base), "json");
    again(&mut registry);
    assert_eq!(registry.get(&at(&base.id, "json")).status, 404);
    ok(put_layer(&registry, base), "layer");
    again(&mut registry);
    assert_eq!(registry.get(&at(&base.id, "json")).status, 404);
    ok(put_checksum(&registry, base, &base.checksum()), "checksum");
    again(&mut registry);
    assert_eq!(registry.get(&at(&base.id, "json")).body, base.json);
    push(&registry, "a", "1", &images);
    again(&mut registry);
    assert_eq!(pull(&registry, "a", "1"), images);

    // In the middle of a layer: only that is lost.
    let large = Image::new("large", Some(&images[2]), noise(3, 2_000_000));
    ok(put_json(&registry, &large), "json");
    let mut stream = registry.connect();
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        at(&large.id, "layer"),
        large.layer.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&large.layer[..1_500_000]).unwrap();
    let scratch = registry.store().join("_tmp");
    eventually("the layer is coming", || std::fs::read_dir(&scratch).unwrap().next().is_some());
    again(&mut registry);
    assert!(std::fs::read_dir(&scratch).unwrap().next().is_none());
    let reply = put_checksum(&registry, &large, &large.checksum());
    assert_eq!(reply.status, 409);
    ok(put_layer(&registry, &large), "layer");
    ok(put_checksum(&registry, &large, &large.checksum()), "checksum");
}

/// Two push the same image at the same time, each with bytes of its own.
#[test]
fn at_the_same_time() {
    let registry = Registry::start(&[]);
    let mut images = Vec::new();
    for seed in ["x", "y", "z"] {
        let tar = Tar::default().file("file", seed.as_bytes()).finish();
        images.push(Image::new("shared", None, tar));
    }
    // Sizes differ in nothing, so their JSON is the same.
    let results = std::thread::scope(|scope| {
        let pushes: Vec<_> = images
            .iter()
            .map(|image| {
                let registry = &registry;
                scope.spawn(move || {
                    let steps = [
                        put_json(registry, image).status,
                        put_layer(registry, image).status,
                        put_checksum(registry, image, &image.checksum()).status,
                    ];
                    (steps == [200, 200, 200]).then_some(image)
                })
            })
            .collect();
        let ends = pushes.into_iter().map(|push| push.join().unwrap());
        ends.flatten().collect::<Vec<_>>()
    });
    let layer = registry.get(&at(&images[0].id, "layer"));
    if results.is_empty() {
        assert_eq!(layer.status, 404, "all were in each other's way");
        push_image(&registry, &images[0]);
    } else {
        assert_eq!(results.len(), 1, "one of them won");
        assert_eq!(layer.body, results[0].layer);
    }
}

/// 300 images on top of each other, and as deep as it goes.
#[test]
fn deep() {
    let registry = Registry::start(&[]);
    let mut images: Vec<Image> = Vec::new();
    for n in 0..300 {
        let seed = format!("deep {n}");
        let tar = Tar::default().file(format!("file-{n}"), b"x").finish();
        images.push(Image::new(&seed, images.last(), tar));
    }
    push(&registry, "deep", "1", &images);
    let ancestry = registry.get(&at(&images[299].id, "ancestry")).json();
    let want: Vec<&str> = images.iter().rev().map(|image| image.id.as_str()).collect();
    assert_eq!(ancestry, json!(want));
    let tree = registry.get(&at(&images[149].id, "tree/")).json();
    assert_eq!(tree.as_array().map(Vec::len), Some(150));

    // The next ones until it is refused.
    let mut parent = images[299].clone();
    for n in 300.. {
        let image = Image::new(&format!("deep {n}"), Some(&parent), Tar::default().finish());
        let reply = put_json(&registry, &image);
        if reply.status == 400 {
            assert_eq!(n, 500, "{}", reply.text());
            break;
        }
        push_image(&registry, &image);
        parent = image;
    }
    assert_eq!(registry.get(&at(&id("deep 500"), "json")).status, 404);
}
