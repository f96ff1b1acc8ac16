package metrics

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	// reviewsAtOnce bounds what strangers make us ask the API server, and reviewTimeout for how long.
	reviewsAtOnce, reviewTimeout = 4, 10 * time.Second
	// passes is for how long whoever may pass need not be asked about again: strangers must not keep him out.
	passes = time.Minute
	// longestToken is longer than tokens are.
	longestToken = 16 << 10
)

// onlyWhoMay lets those pass of whom the API server says that they are who they say, and that they may get the path. controller-runtime's own
// filter says the same, by the library of the API server, which takes 15 MiB of memory.
func onlyWhoMay(config *rest.Config, httpClient *http.Client) (server.Filter, error) {
	authentication, err := authenticationclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	authorization, err := authorizationclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	gate := &gate{authentication, authorization, make(chan struct{}, reviewsAtOnce), utilcache.NewExpiring()}
	return gate.filter, nil
}

type gate struct {
	authentication authenticationclient.AuthenticationV1Interface
	authorization  authorizationclient.AuthorizationV1Interface
	reviewing      chan struct{}
	// passed are the hashes of the tokens, with what was asked for, that may pass.
	passed *utilcache.Expiring
}

func (g *gate) filter(log logr.Logger, handler http.Handler) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		token, found := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
		if !found || token == "" || len(token) > longestToken {
			http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
			return
		}
		seen := sha256.Sum256([]byte(request.Method + " " + request.URL.Path + " " + token))
		if _, may := g.passed.Get(seen); may {
			handler.ServeHTTP(w, request)
			return
		}
		select {
		case g.reviewing <- struct{}{}:
		case <-request.Context().Done():
			return
		}
		code, err := g.review(request, token)
		<-g.reviewing
		if err != nil {
			log.Error(err, "review who asks for the metrics")
		}
		if code != http.StatusOK {
			http.Error(w, http.StatusText(code), code)
			return
		}
		g.passed.Set(seen, nil, passes)
		handler.ServeHTTP(w, request)
	}), nil
}

// review is 200 where the request may pass, and otherwise what to answer.
func (g *gate) review(request *http.Request, token string) (int, error) {
	ctx, cancel := context.WithTimeout(request.Context(), reviewTimeout)
	defer cancel()
	who, err := g.authentication.TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return http.StatusInternalServerError, err
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user, extra := who.Status.User, map[string]authorizationv1.ExtraValue{}
	for key, value := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	may, err := g.authorization.SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: request.URL.Path, Verb: strings.ToLower(request.Method)},
		},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return http.StatusInternalServerError, err
	case !may.Status.Allowed:
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
