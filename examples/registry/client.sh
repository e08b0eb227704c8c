#!/bin/sh
# Calls every instance of the service by the address that it registered in etcd
# ($ETCD is HOST:PORT).
set -e
encoded() { printf '%s' "$1" | base64 | tr -d '\n'; }
range="{\"key\":\"$(encoded services/hello/)\",\"range_end\":\"$(encoded services/hello0)\"}"
found=$(wget -q -O - --post-data "$range" "http://$ETCD/v3/kv/range")
for value in $(echo "$found" | grep -o '"value":"[^"]*"' | cut -d '"' -f 4); do
    timeout 5 wget -q -O - "http://$(echo "$value" | base64 -d)/"
done
