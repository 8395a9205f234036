//! Documents: an image that is taken is read afterwards, and both readings
//! agree on its blobs.

use crate::oci::manifest::{MANIFEST_MAX, stored_media_type};
use crate::oci::{Contents, ImageConfig, Manifest};

pub fn manifests(data: &[u8]) {
    if data.len() > MANIFEST_MAX {
        return;
    }
    ImageConfig::parse(data);
    let media_type = stored_media_type(data);
    assert!(media_type.bytes().all(|byte| byte.is_ascii_graphic()));
    let contents = Contents::parse(data);
    for content_type in [None, Some(media_type.as_str())] {
        let Ok(manifest) = Manifest::parse(data, content_type) else {
            continue;
        };
        assert_eq!(manifest.media_type.as_str(), media_type);
        match &contents {
            Ok(Contents::Image { config, layers }) => {
                assert!(!manifest.media_type.is_index());
                let here = layers.iter().filter(|layer| !layer.foreign);
                let blobs: Vec<_> =
                    [config].into_iter().chain(here.map(|layer| &layer.digest)).collect();
                assert!(manifest.blobs.iter().eq(blobs));
            }
            Ok(Contents::Index { .. }) => assert!(manifest.media_type.is_index()),
            // A child's platform may be anything.
            Err(error) => assert!(manifest.media_type.is_index(), "{error}"),
        }
    }
}
