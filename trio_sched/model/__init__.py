"""What lies below a path in etcd: names, values, and the picture that they make. Pure."""
