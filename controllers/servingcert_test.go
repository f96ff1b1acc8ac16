package controllers_test

import (
	"testing"
)

// One annotation is enough for a certificate that every client can verify.
func TestAnnotatedServiceGetsCertificate(t *testing.T) {
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc", "web."+r.name+".svc.cluster.local"))
}
