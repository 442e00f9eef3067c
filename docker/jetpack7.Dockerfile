# A board with JetPack 7: bench, predict, verify and engines. The context is a bundle: make bundle TARGET=jetpack7
#   docker build --tag dhox:jetpack7 --file docker/jetpack7.Dockerfile dist/dhox-VERSION-jetpack7-cp312
# CUDA, TensorRT and its Python module are those of the base; the build stops where the module is missing.
FROM nvcr.io/nvidia/tensorrt:25.08-py3
RUN python3 -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('tensorrt') is None and 'no tensorrt')"
RUN --mount=type=bind,target=/bundle sh /bundle/install.sh /opt/dhox
RUN useradd --create-home --uid 10001 --groups video dhox
ENV PATH=/opt/dhox/bin:$PATH
USER 10001
WORKDIR /work
ENTRYPOINT ["dhox"]
CMD ["doctor"]
