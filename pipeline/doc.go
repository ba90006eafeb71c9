// Package pipeline reads the language of Twinkeel and says what is to be done: HCL in, plain values out, no effects. A
// directory of *.twinkeel.hcl (or .twinkeel.json) files is one pipeline.
//
//	Load      files, syntax, blocks, arguments, references: what needs no values
//	Validate  all values, offline: no files are opened, no keys, no connections
//	Plan      all values with the facts of the file system, as a [Plan] of actions in order
//	Outputs   the values of output blocks
//
// Syntax and expressions are HCL's (hashicorp/hcl, specification in its hclsyntax/spec.md); names, meta-arguments and the
// precedence of variables are Terraform's, because people bring them along. What a block may hold is said in one place,
// the table in schema.go, which decoding, checks and suggestions read.
//
// # How a value is found
//
// Nothing is evaluated in the order of the file. The evaluator (eval.go) is asked for a symbol: a variable, a local value
// or a block. It evaluates the symbol's expressions; for each reference in them it asks itself for the symbol behind it
// first; and it keeps what it found, so every symbol is evaluated once. A symbol that is asked for while it is being
// evaluated is a cycle, and the symbols that wait at that moment are its path.
//
//	artifact.os            payload { file = source.yocto.demo.rootfs }
//	  source.yocto.demo      deploy_dir = "deploy/${var.version}"
//	    var.version            given by --var, else a file, else TWINKEEL_VAR_version, else the default
//
// An expression is evaluated in a context that holds only what it refers to, so the work grows with the number of
// references. All blocks of one kind have one object type, whatever their type label: a conditional between two signers
// keeps all attributes. A reference argument (device_type = device_type.demo) takes such an object and keeps its address.
//
// A value may be unknown: because validation is offline, because it appears with the build (artifact.os.size), or because
// something before it was wrong. Unknown values pass through every expression and every check in silence, so one mistake
// makes one message.
//
// A value may be sensitive: it comes from a variable with sensitive = true. Such values carry a mark with their origin
// through every expression. Only a few arguments take them (signer.passphrase, server.token); all others end up in files
// that everybody can read, and refuse them. Functions hide marked arguments in their errors, and [Pipeline.Secrets] feeds
// a last filter over all output.
//
// The actions of a plan get their edges from the values, not from the text of the expressions: of the two signers in a
// conditional, the plan names the one that was chosen.
//
// # Modules
//
// A directory that a block module names is read once, and each call makes an instance of it (module.go). A symbol belongs
// to an instance, so the one evaluator finds the values of all of them, and a cycle is seen also when it runs through several.
//
// # Limits
//
// Pipelines may come from anywhere, so parsing is bounded before it begins (nesting.go: HCL recurses without a limit and Go
// cannot survive a stack overflow), values are bounded in size and depth, and what is read from a deploy directory is
// bounded and must lie inside it.
package pipeline
