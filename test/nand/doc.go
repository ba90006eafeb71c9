// Package nand proves UBI images on a kernel: its test writes one to the simulated NAND flash (nandsim) of a virtual machine with
// the tools that a device has, mounts what is on it, and changes the boot loader's environment. "make nand" runs it.
//
// The simulator and its identification bytes are those of the kernel's Documentation/driver-api/mtd/nandsim; what Mender's
// devices do with volumes is in meta-mender's ubimg classes.
package nand
