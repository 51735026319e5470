"""Bytes: HTTP/1.1 towards clients and towards servers, and nothing of what is said in it.

clients     listen, tls, descriptors -> http_server -> client_connection (whole_answer, not_http); bodies, pages
servers     pool -> upstream (one connection) -> protocol.http1 (its bytes)
"""
