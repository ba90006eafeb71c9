// Package payload makes payloads of files on disk: [File] turns a file into an input of an artifact, and the recipes make the
// payloads of the common update modules, exactly as those expect them.
//
// What an update module expects is in its own source: single-file, directory, script, deb, rpm and docker of Mender's
// update modules (mender's support/modules and mender-update-modules), and the generators beside them. Holes of sparse
// files are found with lseek(2), SEEK_DATA and SEEK_HOLE, where the system has them.
package payload
