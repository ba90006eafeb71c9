package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

// ListArtifacts returns the artifacts with the given name, or all of them for an empty name.
func (c *Client) ListArtifacts(ctx context.Context, name string) ([]menderapi.Artifact, error) {
	q := url.Values{}
	if name != "" {
		q.Set("name", name)
	}
	var list []menderapi.Artifact
	err := c.decode(ctx, call{method: http.MethodGet, path: menderapi.PathArtifacts, query: q, accept: http.StatusOK}, &list)
	return list, err
}

// Artifact returns one artifact.
func (c *Client) Artifact(ctx context.Context, id string) (*menderapi.Artifact, error) {
	var a menderapi.Artifact
	err := c.decode(ctx, get(menderapi.PathArtifact, id), &a)
	return &a, err
}

// DeleteArtifact deletes an artifact. One that an unfinished deployment uses is ErrConflict.
func (c *Client) DeleteArtifact(ctx context.Context, id string) error {
	_, err := c.run(ctx, call{method: http.MethodDelete, path: fmt.Sprintf(menderapi.PathArtifact, url.PathEscape(id)), accept: http.StatusNoContent})
	return err
}

// ArtifactLink returns a link from which the artifact can be fetched without further authorization, for a while.
func (c *Client) ArtifactLink(ctx context.Context, id string) (*menderapi.Link, error) {
	var l menderapi.Link
	err := c.decode(ctx, get(menderapi.PathArtifactDownload, id), &l)
	return &l, err
}

// UploadArtifact sends the artifact file at path as a stream and returns its id on the server. progress, when not nil,
// is called with the bytes of the file that have been sent and the file's size. An artifact that the server cannot
// tell from one it has is ErrConflict.
func (c *Client) UploadArtifact(ctx context.Context, path, description string, progress func(done, total int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: not a regular file", path)
	}
	head, tail, contentType, err := uploadFrame(filepath.Base(path), description, info.Size())
	if err != nil {
		return "", err
	}
	// The length is known, so the server can refuse what is too large before it is sent. LimitReader: a file that
	// grows meanwhile would otherwise make the body longer than announced.
	file := &countingReader{r: io.LimitReader(f, info.Size()), total: info.Size(), progress: progress}
	req, err := c.request(ctx, http.MethodPost, menderapi.PathArtifacts, nil,
		io.MultiReader(bytes.NewReader(head), file, bytes.NewReader(tail)))
	if err != nil {
		return "", err
	}
	req.ContentLength = int64(len(head)) + info.Size() + int64(len(tail))
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Expect", "100-continue") // so that a bad token costs no upload
	resp, err := c.send(c.large, req, http.StatusCreated)
	if err != nil {
		return "", fmt.Errorf("uploading %s: %w", path, err)
	}
	defer resp.Body.Close()
	return idFromLocation(resp.Header)
}

// uploadFrame makes what stands before and after the file in the multipart body. The order size, description, artifact
// is mender-cli's; the server reads the body as a stream, so the artifact must be last.
func uploadFrame(name, description string, size int64) (head, tail []byte, contentType string, err error) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.WriteField("size", strconv.FormatInt(size, 10)); err != nil {
		return nil, nil, "", err
	}
	if err := w.WriteField("description", description); err != nil {
		return nil, nil, "", err
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", multipart.FileContentDisposition("artifact", name))
	h.Set("Content-Type", "application/octet-stream")
	if _, err := w.CreatePart(h); err != nil {
		return nil, nil, "", err
	}
	n := b.Len()
	if err := w.Close(); err != nil {
		return nil, nil, "", err
	}
	return b.Bytes()[:n], b.Bytes()[n:], w.FormDataContentType(), nil
}

type countingReader struct {
	r           io.Reader
	done, total int64
	progress    func(done, total int64)
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.done += int64(n)
	if r.progress != nil && n > 0 {
		r.progress(r.done, r.total)
	}
	return n, err
}

func get(path string, ids ...string) call {
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = url.PathEscape(id)
	}
	return call{method: http.MethodGet, path: fmt.Sprintf(path, args...), accept: http.StatusOK}
}
