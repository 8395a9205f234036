//! Media types of manifests, and which layers a registry need not hold.

/// The manifest formats that clients may push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    OciManifest,
    OciIndex,
    DockerManifest,
    DockerList,
}

impl MediaType {
    pub const ALL: [MediaType; 4] = [
        MediaType::OciManifest,
        MediaType::OciIndex,
        MediaType::DockerManifest,
        MediaType::DockerList,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            MediaType::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            MediaType::OciIndex => "application/vnd.oci.image.index.v1+json",
            MediaType::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            MediaType::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    pub fn from_name(name: &str) -> Option<MediaType> {
        MediaType::ALL.into_iter().find(|t| t.as_str() == name)
    }

    /// An index (or Docker's manifest list) names other manifests.
    pub fn is_index(self) -> bool {
        match self {
            MediaType::OciIndex | MediaType::DockerList => true,
            MediaType::OciManifest | MediaType::DockerManifest => false,
        }
    }
}

/// Docker's schema 1 manifests, which nothing made since 2019 needs.
pub fn is_schema1(name: &str) -> bool {
    name.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Layers that clients fetch from elsewhere and may not push (image-spec,
/// layer.md, "Non-Distributable Layers"; Docker's foreign layers).
pub fn is_non_distributable(name: &str) -> bool {
    name.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || name.starts_with("application/vnd.docker.image.rootfs.foreign.")
}
