# The manager as one static binary in an otherwise empty image.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
WORKDIR /src
# The dependencies first: they change seldom, and stay in the layer's cache.
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY api api
COPY controllers controllers
# As `make build` does it. The file bears the commit's time, so that the layer is the same whenever it is made.
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
# The certificates of public roots: none. The manager talks to nobody but the API server, whose CA the pod brings along.
COPY --from=build /manager /manager
# By number, or `runAsNonRoot` could not tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/manager"]
