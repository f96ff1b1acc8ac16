# The manager as one static binary in an otherwise empty image.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
WORKDIR /src
# The dependencies first: they rarely change, and stay in the layer cache.
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY api api
COPY controllers controllers
# Like `make build`. The file has the commit's time, so that the layer is reproducible.
ARG TARGETOS TARGETARCH VERSION=devel SOURCE_DATE_EPOCH=0
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags="-s -w -X main.version=$VERSION" -o /manager . && \
    touch --date="@$SOURCE_DATE_EPOCH" /manager

FROM scratch
ARG VERSION=devel REVISION=
LABEL org.opencontainers.image.title="servingcert operator" \
      org.opencontainers.image.description="A service CA for every Kubernetes" \
      org.opencontainers.image.source="https://github.com/servingcert/operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# No certificates of public roots: the manager connects only to the API server, whose CA is mounted into the pod.
COPY --from=build /manager /manager
# A numeric user, because `runAsNonRoot` cannot verify a name.
USER 65532:65532
ENTRYPOINT ["/manager"]
