package cluster

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"os"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

// Files in the cluster's folder that components read.
const (
	caFile             = "ca.crt"
	servingCertFile    = "apiserver.crt"
	servingKeyFile     = "apiserver.key"
	serviceAccountFile = "sa.key" // signs and verifies ServiceAccount tokens
)

// writeCredentials creates the CA of the cluster, the serving certificate of kube-apiserver, and
// the credentials of an administrator.
func (c *Cluster) writeCredentials() (err error) {
	if c.authority, err = newAuthority("cluster"); err != nil {
		return err
	}
	serving, err := c.authority.issue(pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth, "localhost", "127.0.0.1")
	if err != nil {
		return err
	}
	signer, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return err
	}
	for file, content := range map[string][]byte{
		caFile: c.authority.certificatePEM, servingCertFile: serving.certificate, servingKeyFile: serving.key, serviceAccountFile: signer,
	} {
		if err := os.WriteFile(c.path(file), content, 0o600); err != nil {
			return err
		}
	}
	return c.addAdministrator()
}

func (c *Cluster) addAdministrator() (err error) {
	if c.Config, c.Kubeconfig, err = c.user("admin", "admin", "system:masters"); err != nil {
		return err
	}
	c.client, err = kubernetes.NewForConfig(c.Config)
	return err
}

// user creates the credentials of a user, and writes them to <file>.kubeconfig in the cluster's
// folder.
func (c *Cluster) user(file, name string, groups ...string) (*rest.Config, string, error) {
	pair, err := c.authority.issue(pkix.Name{CommonName: name, Organization: groups}, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, "", err
	}
	config := &rest.Config{
		Host:            "https://" + c.apiserver.address(),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.certificatePEM, CertData: pair.certificate, KeyData: pair.key},
		QPS:             -1, // no client-side throttling: only the tests use this API server
	}
	path := c.path(file + ".kubeconfig")
	return config, path, clientcmd.WriteToFile(kubeconfig(name, config), path)
}

func kubeconfig(user string, config *rest.Config) clientcmdapi.Config {
	const name = "embedded"
	return clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: user}},
		CurrentContext: name,
	}
}
