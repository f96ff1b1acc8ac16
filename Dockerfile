# The manager as one static binary in an otherwise empty image.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
# The dependencies first: they change seldom, and stay in the layer's cache.
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY api api
COPY controllers controllers
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags="-s -w" -o /manager .

FROM scratch
# The certificates of public roots: none. The manager talks to nobody but the API server, whose CA the pod brings along.
COPY --from=build /manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
