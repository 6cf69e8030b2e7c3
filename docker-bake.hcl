# docker buildx bake            builds all images
# docker buildx bake slim       builds one
# docker buildx bake --push     pushes them; set REGISTRY before
#
# The images for the CPU are for x86-64 and arm64. On arm64 the kernels are compiled when the service first starts.

variable "REGISTRY" { default = "" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "" }

group "default" { targets = ["cpu", "slim", "cuda"] }

target "common" {
  args = { VERSION = VERSION, REVISION = REVISION }
  attest = ["type=provenance,mode=max", "type=sbom"]
}

target "cpu" {
  inherits = ["common"]
  platforms = ["linux/amd64", "linux/arm64"]
  tags = ["${REGISTRY}weightwell:${VERSION}"]
}

target "slim" {
  inherits = ["common"]
  args = { EXTRAS = "service-slim,telemetry" }
  platforms = ["linux/amd64", "linux/arm64"]
  tags = ["${REGISTRY}weightwell:${VERSION}-slim"]
}

target "cuda" {
  inherits = ["common"]
  args = { TORCH_INDEX = "" }
  platforms = ["linux/amd64"]
  tags = ["${REGISTRY}weightwell:${VERSION}-cuda"]
}
