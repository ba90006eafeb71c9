package inspect

import "slices"

// Severities of a [Finding].
const (
	SeverityError   = "error"   // a device would not boot, or not update
	SeverityWarning = "warning" // it works, but somebody should know
)

// Codes of findings, for scripts. They do not change.
const (
	CodeTable            = "table"              // there is no table that can be used
	CodeTablePrimary     = "table-primary"      // the first of the two GPTs is damaged
	CodeTableBackup      = "table-backup"       // the second one is
	CodeTableEnd         = "table-end"          // the second one is not at the end of the disk
	CodeTableDiffers     = "table-differs"      // the two do not say the same
	CodeTableMBR         = "table-mbr"          // the MBR in front of a GPT is wrong
	CodeTableExtended    = "table-extended"     // the chain of logical partitions breaks off
	CodePartitionEnd     = "partition-end"      // a partition ends behind the disk
	CodeFilesystem       = "filesystem"         // it is damaged
	CodeFilesystemSize   = "filesystem-size"    // it is larger than its partition
	CodeFilesystemBlock  = "filesystem-block"   // its blocks are smaller than the disk's sectors
	CodeFilesystemDirty  = "filesystem-dirty"   // it was not unmounted
	CodeFilesystemErrors = "filesystem-errors"  // the kernel has noted errors in it
	CodeFilesystemCheck  = "filesystem-check"   // e2fsck or fsck.vfat found something
	CodeCheckMissing     = "check-missing"      // a program that was asked for is not installed
	CodeEnvironment      = "environment"        // no copy of the boot loader's environment can be used
	CodeEnvironmentBlank = "environment-blank"  // it was never written
	CodeEnvironmentCopy  = "environment-copy"   // one of its two copies cannot be used
	CodeEnvironmentPlace = "environment-place"  // it is said to be where it cannot be
	CodeEnvironmentBoot  = "environment-boot"   // its variables name no slot that is there
	CodeAgentConfig      = "agent-config"       // the agent's configuration cannot be used
	CodeAgentDevice      = "agent-device-type"  // the device type is missing or wrong
	CodeAgentKey         = "agent-key"          // a key that the agent shall trust is missing
	CodeSlot             = "slot"               // a slot holds no root file system
	CodeSlotRelease      = "slot-release"       // what is in a slot is not what the bootstrap artifact says
	CodeBmap             = "bmap"               // the block map beside it does not fit
	CodeBmapChecksum     = "bmap-checksum"      // a range has another checksum
	CodeBmapMissing      = "bmap-missing-block" // there is data that the block map leaves out
	CodeDigest           = "digest"             // it is not what the build has recorded
)

// Finding is something that is wrong with a disk.
type Finding struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Place    string `json:"place"` // such as "backup table" or "partition 2 (rootfs_a)"
	Text     string `json:"text"`
	Hint     string `json:"hint,omitempty"`
}

// Wrong tells whether any of the findings is an error.
func Wrong(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == SeverityError })
}
