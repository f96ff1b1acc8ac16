package certrequest

import (
	"context"
	"encoding/pem"
	"fmt"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Issued is a certificate that was issued for a request. The operator cannot replace it: its holder
// must make another request.
type Issued struct {
	*pki.Leaf
	// RenewCommand is the command by which the holder gets a new certificate, or the request's name
	// if there is no such command.
	RenewCommand string
}

// Response is the answer to a request to a ServiceCA.
type Response struct {
	CA string
	// Certificate is in PEM; empty if there is none.
	Certificate []byte
	// Holder identifies the holder of the certificate within the namespace. Of several requests of
	// one holder, only the newest counts. If Holder is empty, each request counts.
	Holder       types.UID
	RenewCommand string
}

// unreadableCertificate replaces a certificate that cannot be parsed or is too long to keep.
const unreadableCertificate = "-"

// FirstCertificate returns the first certificate of a chain in PEM, for a cache; nil if the chain
// is empty.
func FirstCertificate(chain []byte) []byte {
	if len(chain) == 0 {
		return nil
	}
	block, _ := pem.Decode(chain)
	if block == nil || len(block.Bytes) > csr.MaxSize {
		return []byte(unreadableCertificate)
	}
	block.Headers = nil
	return pem.EncodeToMemory(block)
}

// Command returns a command about an object. A tenant may have chosen the object's name; the result
// is false if it is not a valid name of a Kubernetes object.
func Command(format, namespace, name string) (string, bool) {
	return fmt.Sprintf(format, namespace, name), len(validation.IsDNS1123Subdomain(name)) == 0
}

// isNewer reports whether a was created after b or, if both were created in the same second,
// whether a was answered after b.
func isNewer(a, b client.Object) bool {
	created := a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time)
	answered, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion())
	return created > 0 || (created == 0 && err == nil && answered > 0)
}

// IssuedCertificates returns the certificates that the ServiceCA issued for requests that the API
// server still has. It returns false while the requests are not known yet.
func (r *Reconciler[T]) IssuedCertificates(ctx context.Context, ca string) ([]Issued, bool, error) {
	if !r.cacheSynced.Load() {
		return nil, r.notServed.Load(), nil
	}
	list := r.Kind.List()
	if err := r.requests.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, false, err
	}
	newest, answers := map[string]client.Object{}, map[client.Object]Response{}
	err := apimeta.EachListItem(list, func(item runtime.Object) error {
		request, ok := item.(T)
		if !ok {
			return nil
		}
		answer := r.Kind.Response(request)
		if answer.CA != ca || len(answer.Certificate) == 0 {
			return nil
		}
		holder := request.GetNamespace() + "/" + string(answer.Holder)
		if before := newest[holder]; answer.Holder != "" && before != nil {
			if !isNewer(request, before) {
				return nil
			}
			delete(answers, before)
		}
		newest[holder], answers[request] = request, answer
		return nil
	})
	var issued []Issued
	for _, answer := range answers {
		if leaf, err := pki.ParseLeaf(answer.Certificate); err == nil {
			issued = append(issued, Issued{leaf, answer.RenewCommand})
		}
	}
	return issued, true, err
}
