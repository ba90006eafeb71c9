package artifactfmt

// Limits bound what reading an artifact may cost, whatever it contains. A zero value means the default in parentheses.
//
// There is no limit on the ratio of decompression: a root file system of zeros really shrinks ten thousand times. Instead
// every file of the payload declares its size before its first byte, the sizes together stay below Payload, and nothing is
// decompressed beyond them.
type Limits struct {
	Header         int64  // bytes of the header, compressed and decompressed (16 MiB)
	JSON           int64  // bytes of each JSON document (1 MiB)
	Depth          int    // levels of nesting in it (64)
	Scripts        int    // state scripts (256)
	Files          int    // files of the payload (4096)
	Payload        int64  // bytes of all files of the payload together (256 GiB)
	ZstdWindow     uint64 // bytes a zstd frame may make a decoder remember (32 MiB, what level "best" of mender-artifact needs)
	XZDictionary   int64  // the same for xz (64 MiB, what mender-artifact's "lzma" needs)
	ManifestLength int64  // bytes of the manifest (1 MiB)
}

var defaultLimits = Limits{
	Header:         16 << 20,
	JSON:           1 << 20,
	Depth:          64,
	Scripts:        256,
	Files:          4096,
	Payload:        256 << 30,
	ZstdWindow:     32 << 20,
	XZDictionary:   64 << 20,
	ManifestLength: 1 << 20,
}

func (l Limits) withDefaults() Limits {
	d := defaultLimits
	for _, f := range []struct{ set, value *int64 }{
		{&d.Header, &l.Header},
		{&d.JSON, &l.JSON},
		{&d.Payload, &l.Payload},
		{&d.XZDictionary, &l.XZDictionary},
		{&d.ManifestLength, &l.ManifestLength},
	} {
		if *f.value > 0 {
			*f.set = *f.value
		}
	}
	for _, f := range []struct{ set, value *int }{{&d.Depth, &l.Depth}, {&d.Scripts, &l.Scripts}, {&d.Files, &l.Files}} {
		if *f.value > 0 {
			*f.set = *f.value
		}
	}
	if l.ZstdWindow > 0 {
		d.ZstdWindow = l.ZstdWindow
	}
	return d
}
