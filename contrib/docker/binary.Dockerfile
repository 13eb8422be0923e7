# The same of a program that is built already, with nothing pulled from anywhere; the folder to build in is made by
# contrib/docker/root.
FROM scratch
COPY root /
COPY --chown=65532:65532 store /var/lib/events
# Whoever has no name has no rights of its own; the group of the engine's socket is given with --group-add.
USER 65532:65532
VOLUME /var/lib/events
ENV EVENTS_DB=/var/lib/events/events.db
EXPOSE 9324
# No HEALTHCHECK: each would be three more events. Who watches asks /healthz.
ENTRYPOINT ["/usr/local/bin/events"]
CMD ["record", "-H", "unix:///host/run/docker.sock", "--metrics", "tcp://0.0.0.0:9324", "--allow-remote"]
