"""Checks a device assertion as a back end does: PyJWT, with the keys that the gateway publishes.

Arguments: the URL of the JWK Set, the audience, the issuer. Standard input: the assertion. Prints the claims as JSON,
or the name of the error.
"""

import json
import sys

import jwt

url, audience, issuer = sys.argv[1:]
token = sys.stdin.read()
try:
    key = jwt.PyJWKClient(url).get_signing_key_from_jwt(token)
    required = ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "cnf"]
    claims = jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        audience=audience,
        issuer=issuer,
        leeway=5,
        options={"require": required},
    )
    print(json.dumps(claims))
except jwt.PyJWTError as error:
    print(json.dumps({"refused": type(error).__name__}))
