#!/bin/sh
# A service that registers its own address, as `hostname -i` tells it, in etcd
# ($ETCD is HOST:PORT), and answers there. busybox is all that it needs.
set -e
encoded() { printf '%s' "$1" | base64 | tr -d '\n'; }
key=$(encoded "services/hello/$(hostname)")
value=$(encoded "$(hostname -i):8080")
wget -q -O /dev/null --post-data "{\"key\":\"$key\",\"value\":\"$value\"}" "http://$ETCD/v3/kv/put"
mkdir -p /tmp/www
echo "hello from $(hostname)" > /tmp/www/index.html
exec httpd -f -p 8080 -h /tmp/www
