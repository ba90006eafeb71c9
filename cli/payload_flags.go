package cli

import (
	"github.com/spf13/pflag"

	"github.com/twinkeel/twinkeel/artifactfmt/payload"
)

// addPayloadFlags adds what the update modules' payloads take beside --file and --meta-data.
func addPayloadFlags(f *pflag.FlagSet, o *payload.Options) {
	f.StringVar(&o.Directory, "directory", "", "`directory` to install (directory), or of Compose files (docker-compose, app)")
	f.StringVar(&o.Destination, "destination", "", "`path` on the device (single-file, directory)")
	f.StringVar(&o.FileName, "file-name", "", "`name` of the file on the device (single-file)")
	f.StringVar(&o.Mode, "mode", "", "`permissions` on the device, such as 0644 (single-file)")
	f.BoolVar(&o.KeepOwners, "keep-owners", false, "keep numeric owners (directory)")
	f.StringArrayVar(&o.Images, "image", nil, "container `image` to pull and run (docker; may be repeated)")
	f.StringArrayVar(&o.ImageFiles, "image-file", nil, "archive of container images (docker-compose, app; `file`, may be repeated)")
	f.StringArrayVar(&o.ComposeFiles, "compose-file", nil, "Compose `file` and what it refers to (docker-compose, app; may be repeated)")
	f.StringVar(&o.Project, "project", "", "`name` of the Compose project (docker-compose, app)")
	f.StringVar(&o.Platform, "platform", "", "`platform` of the images, such as linux/arm64 (app)")
	f.StringVar(&o.RunArgs, "run-args", "", "`arguments` of docker run (docker)")
}

func addCompressionFlag(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "compression", "", "none, gzip, xz or zstd, also with a level as in `zstd:19` (default gzip, which all clients read)")
}
