package cli

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

func (a *app) keysCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "keys",
		Short:   "Make signing keys",
		GroupID: groupLook,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	var algorithm string
	generate := &cobra.Command{
		Use:   "generate FILE",
		Short: "Make a key pair: FILE (private, 0600) and FILE.pub",
		Long: `Make a key pair for signing artifacts. FILE gets the private key, readable by its owner alone; FILE.pub the public key,
which devices and "artifact verify" need. Files that exist are never overwritten.`,
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.runKeysGenerate(args[0], algorithm) },
	}
	generate.Flags().StringVar(&algorithm, "type", signing.DefaultAlgorithm, "ecdsa-p256, rsa-3072 or rsa-4096")
	c.AddCommand(generate)
	return c
}

// keyFiles is what `keys generate --json` prints.
type keyFiles struct {
	PrivateKey string `json:"private_key"`
	PublicKey  string `json:"public_key"`
	KeyID      string `json:"key_id"`
	Algorithm  string `json:"algorithm"`
}

func (a *app) runKeysGenerate(path, algorithm string) error {
	private, public, err := signing.Generate(algorithm)
	if err != nil {
		return err
	}
	keys, err := verify.ParseKeys(public)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	files := keyFiles{PrivateKey: path, PublicKey: path + ".pub", KeyID: keys[0].ID, Algorithm: keys[0].Algorithm}
	if err := signing.WriteKeyPair(files.PrivateKey, files.PublicKey, private, public); err != nil {
		return err
	}
	if a.global.json {
		return a.printJSON(files)
	}
	t := table{}
	t.add("private key", files.PrivateKey, "keep it secret")
	t.add("public key", files.PublicKey, "devices verify with it")
	t.add("key id", files.KeyID)
	t.print(a.stdout)
	return nil
}
