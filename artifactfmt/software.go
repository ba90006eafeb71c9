package artifactfmt

// SoftwareKey is what the keys of the software that the artifact updates begin with, such as "rootfs-image" or
// "rootfs-image.deb"; the default patterns to clear cover what follows a dot after it. It is "" for a bootstrap artifact.
func (a *Artifact) SoftwareKey() string { return a.softwareKey() }
