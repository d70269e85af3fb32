"""Stands where protoc would put the descriptors of services.proto. Empty on purpose.

Written by ``nox -s generate``. ``services_grpc.py`` imports this module and uses nothing of it.
The real one would register ``etcdserverpb.*`` in protobuf's default pool, where another etcd client
in the same process may have registered its own: the second import of the two would then fail.
"""
