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
	// maxConcurrentReviews limits how many reviews unauthenticated clients can make the operator
	// request from the API server at a time, and reviewTimeout limits how long they take.
	maxConcurrentReviews, reviewTimeout = 4, 10 * time.Second
	// authCacheTTL is how long an allowed client is not reviewed again, so that other clients that
	// use up the reviews cannot lock it out.
	authCacheTTL = time.Minute
	// maxTokenLength is longer than any real token.
	maxTokenLength = 16 << 10
)

// authorizedOnly returns a filter that lets a request pass if the API server authenticates its
// token and authorizes its user to get the path. controller-runtime's own filter does the same with
// the library of the API server, which takes 15 MiB of memory.
func authorizedOnly(config *rest.Config, httpClient *http.Client) (server.Filter, error) {
	authentication, err := authenticationclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	authorization, err := authorizationclient.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, err
	}
	filter := &authFilter{authentication, authorization, make(chan struct{}, maxConcurrentReviews), utilcache.NewExpiring()}
	return filter.filter, nil
}

type authFilter struct {
	authentication authenticationclient.AuthenticationV1Interface
	authorization  authorizationclient.AuthorizationV1Interface
	slots          chan struct{}
	// allowed holds the hashes of the tokens, together with method and path, that may pass.
	allowed *utilcache.Expiring
}

func (f *authFilter) filter(log logr.Logger, handler http.Handler) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		token, found := strings.CutPrefix(request.Header.Get("Authorization"), "Bearer ")
		if !found || token == "" || len(token) > maxTokenLength {
			http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
			return
		}
		cacheKey := sha256.Sum256([]byte(request.Method + " " + request.URL.Path + " " + token))
		if _, ok := f.allowed.Get(cacheKey); ok {
			handler.ServeHTTP(w, request)
			return
		}
		select {
		case f.slots <- struct{}{}:
		case <-request.Context().Done():
			return
		}
		code, err := f.review(request, token)
		<-f.slots
		if err != nil {
			log.Error(err, "review who asks for the metrics")
		}
		if code != http.StatusOK {
			http.Error(w, http.StatusText(code), code)
			return
		}
		f.allowed.Set(cacheKey, nil, authCacheTTL)
		handler.ServeHTTP(w, request)
	}), nil
}

// review returns 200 if the request may pass, otherwise the status code to respond with. The error
// is the cause of a 500, for the log.
func (f *authFilter) review(request *http.Request, token string) (int, error) {
	ctx, cancel := context.WithTimeout(request.Context(), reviewTimeout)
	defer cancel()
	tokenReview, err := f.authentication.TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return http.StatusInternalServerError, err
	}
	if !tokenReview.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user, extra := tokenReview.Status.User, map[string]authorizationv1.ExtraValue{}
	for key, value := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	accessReview, err := f.authorization.SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: request.URL.Path, Verb: strings.ToLower(request.Method)},
		},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return http.StatusInternalServerError, err
	case !accessReview.Status.Allowed:
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
