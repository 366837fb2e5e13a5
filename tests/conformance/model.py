"""Every bound of the published service model, crossed: each required member missing, each length and range exceeded, each
pattern and enumeration violated, each type wrong. Made from the model that botocore carries, so that a member this store
forgot is found here.

Needs boto3. KINESIN_DATA and KINESIN_PLAIN as in boto.py. Prints how much it tried and ends with 1 if an answer was not
the service's.
"""

import base64
import http.client
import json
import os
import re
import sys

import boto3
import botocore.loaders
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

data = os.environ["KINESIN_DATA"]
plain = os.environ["KINESIN_PLAIN"]
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = f"{data}/admin.credentials"
key = boto3.Session().get_credentials()
model = botocore.loaders.Loader().load_service_model("kinesis", "service-2")
shapes = model["shapes"]
connection = http.client.HTTPConnection(plain.removeprefix("http://"), timeout=20)

# Not done here: the operations on queues and channels.
LATER = re.compile("Queue|Channel|Message")
# Lengths beyond this are not tried: nothing is learnt from sending them.
LENGTH_MAX = 2 << 20


def post(operation, body):
    body = json.dumps(body).encode()
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"Kinesis_20131202.{operation}"}
    request = AWSRequest("POST", plain + "/", data=body, headers=headers)
    SigV4Auth(key, "kinesis", "local-1").add_auth(request)
    connection.request("POST", "/", body, dict(request.headers))
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text) if text else {}


def lower_first(name):
    return name[0].lower() + name[1:]


SAMPLES = {
    "StreamARN": "arn:aws:kinesis:local-1:000000000000:stream/nothing",
    "ConsumerARN": "arn:aws:kinesis:local-1:000000000000:stream/nothing/consumer/c:1",
    "ResourceARN": "arn:aws:kinesis:local-1:000000000000:stream/nothing",
    "HashKey": "1",
    "SequenceNumber": "0",
}


def sample(name):
    """A value within all bounds."""
    shape = shapes[name]
    kind = shape["type"]
    if kind == "structure":
        wanted = shape.get("required", [])
        return {member: sample(shape["members"][member]["shape"]) for member in wanted}
    if kind == "list":
        return [sample(shape["member"]["shape"])] * max(1, shape.get("min", 1))
    if kind == "map":
        return {"k": "v"}
    if kind == "string":
        if name in SAMPLES:
            return SAMPLES[name]
        return shape["enum"][0] if "enum" in shape else "a" * max(1, shape.get("min", 1))
    if kind == "blob":
        return base64.b64encode(b"x").decode()
    if kind in ("integer", "long"):
        return max(1, shape.get("min", 1))
    return {"boolean": True, "timestamp": 1.0}[kind]


def wrong_types(kind):
    if kind == "structure":
        return [1]
    return {"string": [1, [], {}], "integer": ["x", []], "long": ["x", []], "boolean": ["x"], "list": ["x", {}],
            "map": ["x", []], "blob": [1, "%%%%"], "timestamp": ["x"]}[kind]


def bounds(name):
    """Values that are out of one bound, and what must be said of them."""
    shape = shapes[name]
    kind, least, most = shape["type"], shape.get("min"), shape.get("max")
    if kind == "string":
        if "enum" in shape:
            yield "NOT_ONE_OF_THEM", "enum value set"
            return
        if least:
            yield "", f"length greater than or equal to {least}"
        if most and most < LENGTH_MAX:
            yield "1" * (most + 1), f"length less than or equal to {most}"
        if "pattern" in shape and not re.fullmatch(shape["pattern"], "\u00e9 !"):
            yield "\u00e9 !", "regular expression pattern"
    elif kind in ("integer", "long"):
        if least is not None:
            yield least - 1, f"value greater than or equal to {least}"
        if most is not None:
            yield most + 1, f"value less than or equal to {most}"
    elif kind == "list":
        item = sample(shape["member"]["shape"])
        if least:
            yield [], f"length greater than or equal to {least}"
        if most:
            yield [item] * (most + 1), f"length less than or equal to {most}"
    elif kind == "map":
        if least:
            yield {}, f"length greater than or equal to {least}"
        if most:
            yield {f"k{n}": "v" for n in range(most + 1)}, f"length less than or equal to {most}"
        for part in ("key", "value"):
            longest = shapes[shape[part]["shape"]].get("max")
            if longest:
                text = "a" * (longest + 1)
                yield ({text: "v"} if part == "key" else {"k": text}), "must satisfy constraint"
    elif kind == "blob" and most and most < LENGTH_MAX:
        yield base64.b64encode(b"x" * (most + 1)).decode(), f"length less than or equal to {most}"


def members(name, path=""):
    """Every member of a structure, and of structures within: its path, how to set it in a request, its shape."""
    shape = shapes[name]
    for member, ref in shape.get("members", {}).items():
        inner = ref["shape"]
        at = f"{path}.{lower_first(member)}" if path else lower_first(member)
        required = member in shape.get("required", [])
        yield at, (member,), inner, required
        if shapes[inner]["type"] == "structure":
            for sub, steps, found, needed in members(inner, at):
                yield sub, (member, *steps), found, needed
        if shapes[inner]["type"] == "list" and shapes[shapes[inner]["member"]["shape"]]["type"] == "structure":
            for sub, steps, found, needed in members(shapes[inner]["member"]["shape"], f"{at}.1.member"):
                yield sub, (member, 0, *steps), found, needed


def changed(input_shape, steps, value):
    """A good request with one member set, or missing where `value` is None."""
    body = sample(input_shape)
    place, name = body, input_shape
    for at, step in enumerate(steps[:-1]):
        if isinstance(step, int):
            name = shapes[name]["member"]["shape"]
            place[step:] = place[step:step + 1] or [sample(name)]
        else:
            name = shapes[name]["members"][step]["shape"]
            place.setdefault(step, sample(name))
        place = place[step]
    if value is None:
        place.pop(steps[-1], None)
    else:
        place[steps[-1]] = value
    return body


tried, bad = 0, []


def expect(operation, body, kind, *said):
    global tried
    tried += 1
    status, answer = post(operation, body)
    text = answer.get("message") or answer.get("Message") or ""
    if status != 400 or answer.get("__type") != kind or not all(part in text for part in said):
        shown = json.dumps(body)
        bad.append(f"{operation} {shown[:160]}: {status} {answer.get('__type')}: {text[:300]}; wanted {kind} with {said}")


operations = [name for name in model["operations"] if not LATER.search(name)]
for operation in operations:
    shape = model["operations"][operation]["input"]["shape"]
    for at, steps, inner, required in members(shape):
        if required:
            expect(operation, changed(shape, steps, None), "ValidationException", f"Value null at '{at}'", "must not be null")
        for value, said in bounds(inner):
            expect(operation, changed(shape, steps, value), "ValidationException", f"at '{at}'", said)
        for value in wrong_types(shapes[inner]["type"]):
            expect(operation, changed(shape, steps, value), "SerializationException")
for name in model["operations"]:
    if LATER.search(name):
        expect(name, {}, "UnknownOperationException")

print(f"{len(operations)} operations of {len(model['operations'])}, {tried} bad requests, {len(bad)} wrong answers")
for line in bad:
    print("WRONG", line)
sys.exit(bool(bad) or len(operations) != 40)
