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

// Issued is a certificate that a request got, and that the operator cannot replace: its holder has to
// ask again.
type Issued struct {
	*pki.Leaf
	// RenewCommand is the command by which its holder gets another, or the request where there is none.
	RenewCommand string
}

// Response is what a request to a ServiceCA got.
type Response struct {
	CA string
	// Certificate is in PEM; empty where there is none.
	Certificate []byte
	// Holder is the same for requests of one holder in a namespace, of which the newest answer counts;
	// empty where each counts.
	Holder       types.UID
	RenewCommand string
}

// unreadableCertificate stands for a certificate that is none, or too long to be kept.
const unreadableCertificate = "-"

// FirstCertificate returns the first certificate of a chain in PEM, for a cache; nil of no chain.
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

// Command returns a command for an object whose name a tenant may have written; false where the name
// is none that Kubernetes gives.
func Command(format, namespace, name string) (string, bool) {
	return fmt.Sprintf(format, namespace, name), len(validation.IsDNS1123Subdomain(name)) == 0
}

// isNewer reports whether a request was made after another; of two of the same second, whether it was
// answered after that.
func isNewer(a, b client.Object) bool {
	created := a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time)
	answered, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion())
	return created > 0 || (created == 0 && err == nil && answered > 0)
}

// IssuedCertificates returns the certificates that requests to a ServiceCA got, as far as the API server still
// holds them; false while it is not known yet which there are.
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
