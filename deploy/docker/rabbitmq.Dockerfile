# SPDX-License-Identifier: Apache-2.0
# RabbitMQ as Debian has it. Without configuration it serves the user guest on loopback alone; docker-compose.yml
# mounts deploy/rabbitmq/rabbitmq.conf and the users.
ARG BASE_IMAGE=xenopsd/debian-base
FROM $BASE_IMAGE
RUN apt-get update -qq && apt-get install -qq --no-install-recommends -y rabbitmq-server >/dev/null \
    && rm -rf /var/lib/apt/lists/*
ENV RABBITMQ_LOGS=-
USER rabbitmq
WORKDIR /var/lib/rabbitmq
VOLUME /var/lib/rabbitmq
EXPOSE 5672 15692
CMD ["/usr/lib/rabbitmq/bin/rabbitmq-server"]
