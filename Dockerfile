# An image whose entry point is the command line: `docker run IMAGE train recipe.yaml --out gs://…`.
#
#   docker build --tag IMAGE .
#   docker build --tag IMAGE --build-arg EXTRAS=gcs,hf .
#   docker build --tag IMAGE --build-arg BASE=another-image-with-python-3.11 .
#
# torch brings CUDA's libraries with it, so the same image serves machines with and without a GPU;
# of the machine it needs the driver only.
ARG BASE=python:3.11-slim
FROM ${BASE}

# What training in a bucket may use; `vertex` and `tune` are for the machine that submits.
ARG EXTRAS=gcs,hf,timm,av,augment,report,track

# libsndfile1 reads sound where soundfile's wheel brings no library of its own.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libsndfile1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

# Progress reaches the job's log line by line.
ENV PYTHONUNBUFFERED=1

# The user stays root, to whom the folders belong that the service mounts (the metric file's, /gcs).
WORKDIR /work
ENTRYPOINT ["harken"]
