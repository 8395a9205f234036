//! Where files lie: the layout that distribution (`registry:2`, `registry:3`) uses below its root,
//! described in its `registry/storage/paths.go`, with sha512 beside sha256 and `_referrers` added.
//! This is the only module that builds a path, and it accepts only parsed types.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::docker1::ImageId;
use crate::oci::{Algorithm, Digest, Repository, Tag};

use super::docker1::Pusher;

#[derive(Clone, Debug)]
pub struct Layout {
    base: PathBuf,
    v1: PathBuf,
}

impl Layout {
    /// `root` is what distribution calls `rootdirectory`.
    pub fn new(root: &Path) -> Layout {
        Layout { base: root.join("docker/registry/v2"), v1: root.join("docker/registry/v1") }
    }

    /// `docker/registry`: everything that is written lies below it.
    pub fn root(&self) -> &Path {
        self.base.parent().unwrap_or(&self.base)
    }

    /// `docker/registry/v2`: the folder that a server locks.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Files that are not complete yet, and trees that are being removed. Distribution reads only
    /// `blobs` and `repositories`.
    pub fn scratch(&self) -> PathBuf {
        self.base.join("_tmp")
    }

    /// `blobs/sha256/ab/abcd…/data`
    pub fn blob_data(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs(digest.algorithm()).join(&hex[..2]).join(&hex).join("data")
    }

    /// `blobs/sha256`: a folder for each beginning of two digits.
    pub fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.base.join("blobs").join(algorithm.as_str())
    }

    /// `_damaged/sha256/HEX`: a blob that a scrub has moved aside.
    pub fn damaged(&self, digest: &Digest) -> PathBuf {
        self.damaged_all(digest.algorithm()).join(digest.hex())
    }

    /// `_damaged/sha256`
    pub fn damaged_all(&self, algorithm: Algorithm) -> PathBuf {
        self.base.join("_damaged").join(algorithm.as_str())
    }

    pub fn repositories(&self) -> PathBuf {
        self.base.join("repositories")
    }

    pub fn repository(&self, repository: &Repository) -> PathBuf {
        self.repositories().join(repository.as_str())
    }

    /// `_layers/sha256/HEX/link`: the repository may serve this blob.
    pub fn layer_link(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        link(self.repository(repository).join("_layers"), digest)
    }

    pub fn layers(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_layers")
    }

    pub fn manifests(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_manifests")
    }

    /// The folder of the digests of manifests, of one algorithm.
    pub fn revisions(&self, repository: &Repository, algorithm: Algorithm) -> PathBuf {
        self.manifests(repository).join("revisions").join(algorithm.as_str())
    }

    /// `_manifests/revisions/sha256/HEX/link`: the repository has this manifest.
    pub fn revision_link(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        link(self.manifests(repository).join("revisions"), digest)
    }

    /// `_manifests/deleted/sha256/HEX/note`: the manifest is deleted, and its tags are not yet.
    pub fn deleted(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.deleted_all(repository, digest.algorithm()).join(digest.hex()).join("note")
    }

    /// `_manifests/deleted/sha256`
    pub fn deleted_all(&self, repository: &Repository, algorithm: Algorithm) -> PathBuf {
        self.manifests(repository).join("deleted").join(algorithm.as_str())
    }

    pub fn tags(&self, repository: &Repository) -> PathBuf {
        self.manifests(repository).join("tags")
    }

    pub fn tag(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.tags(repository).join(tag.as_str())
    }

    /// `_manifests/tags/TAG/current/link`: the manifest that the tag names now.
    pub fn tag_current(&self, repository: &Repository, tag: &Tag) -> PathBuf {
        self.tag(repository, tag).join("current/link")
    }

    /// `_manifests/tags/TAG/index/sha256/HEX/link`: a manifest that the tag has named.
    pub fn tag_index(&self, repository: &Repository, tag: &Tag, digest: &Digest) -> PathBuf {
        link(self.tag(repository, tag).join("index"), digest)
    }

    /// The folder of the referrers of `subject`, of one algorithm.
    pub fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
        algorithm: Algorithm,
    ) -> PathBuf {
        let (of, hex) = (subject.algorithm().as_str(), subject.hex());
        self.repository(repository).join("_referrers").join(of).join(hex).join(algorithm.as_str())
    }

    /// `_referrers/sha256/SUBJECT/sha256/HEX/link`
    pub fn referrer_link(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrer: &Digest,
    ) -> PathBuf {
        self.referrers(repository, subject, referrer.algorithm()).join(referrer.hex()).join("link")
    }

    pub fn uploads(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_uploads")
    }

    /// `_uploads/UUID`, holding `data` and `startedat`.
    pub fn upload(&self, repository: &Repository, id: Uuid) -> PathBuf {
        self.uploads(repository).join(id.hyphenated().to_string())
    }

    /// `v1/images`: a folder for each beginning of two digits.
    pub fn v1_images(&self) -> PathBuf {
        self.v1.join("images")
    }

    /// `v1/images/ab/abcd…/layer`: the digest of the image's layer.
    pub fn v1_layer(&self, id: &ImageId) -> PathBuf {
        self.v1_image(id).join("layer")
    }

    /// `v1/images/ab/abcd…`: a complete image, `json`, `ancestry`, `layer`,
    /// `checksum`.
    pub fn v1_image(&self, id: &ImageId) -> PathBuf {
        let id = id.to_string();
        self.v1_images().join(&id[..2]).join(&id)
    }

    /// `v1/images/ab/abcd…/pushers/KEY`: this pusher has pushed the image.
    pub fn v1_pusher(&self, id: &ImageId, pusher: &Pusher) -> PathBuf {
        self.v1_image(id).join("pushers").join(pusher.to_string())
    }

    /// The folder of images that are being pushed, one folder for each pusher.
    pub fn v1_pushing_all(&self) -> PathBuf {
        self.v1.join("pushing")
    }

    /// `v1/pushing/KEY/ID`: an image being pushed, `json` and `layers`.
    pub fn v1_pushing(&self, pusher: &Pusher, id: &ImageId) -> PathBuf {
        self.v1_pushing_all().join(pusher.to_string()).join(id.to_string())
    }

    /// `v1/manifests/sha256`
    pub fn v1_manifests(&self, algorithm: Algorithm) -> PathBuf {
        self.v1.join("manifests").join(algorithm.as_str())
    }

    /// `v1/manifests/sha256/HEX/image`: the image that a manifest was made of.
    pub fn v1_manifest(&self, digest: &Digest) -> PathBuf {
        self.v1_manifests(digest.algorithm()).join(digest.hex()).join("image")
    }

    /// `_private`: only clients with a name may read the repository.
    pub fn private(&self, repository: &Repository) -> PathBuf {
        self.repository(repository).join("_private")
    }
}

fn link(folder: PathBuf, digest: &Digest) -> PathBuf {
    folder.join(digest.algorithm().as_str()).join(digest.hex()).join("link")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths that a `registry:2` store has; changing one loses stores.
    #[test]
    fn as_distribution() {
        let layout = Layout::new(Path::new("/r"));
        let repository: Repository = "team/app".parse().unwrap();
        let tag: Tag = "1.4".parse().unwrap();
        let digest = Algorithm::Sha256.digest(b"");
        let hex = digest.hex();
        let id = Uuid::nil();
        for (path, want) in [
            (layout.blob_data(&digest), format!("blobs/sha256/e3/{hex}/data")),
            (
                layout.layer_link(&repository, &digest),
                format!("repositories/team/app/_layers/sha256/{hex}/link"),
            ),
            (
                layout.revision_link(&repository, &digest),
                format!("repositories/team/app/_manifests/revisions/sha256/{hex}/link"),
            ),
            (
                layout.tag_current(&repository, &tag),
                "repositories/team/app/_manifests/tags/1.4/current/link".to_owned(),
            ),
            (
                layout.tag_index(&repository, &tag, &digest),
                format!("repositories/team/app/_manifests/tags/1.4/index/sha256/{hex}/link"),
            ),
            (
                layout.referrer_link(&repository, &digest, &digest),
                format!("repositories/team/app/_referrers/sha256/{hex}/sha256/{hex}/link"),
            ),
            (layout.upload(&repository, id), format!("repositories/team/app/_uploads/{id}")),
        ] {
            assert_eq!(path, Path::new("/r/docker/registry/v2").join(want));
        }
    }
}
