"""Gathers what `serve` is told: flag over environment over `--config` file over default.

Every key has one spelling, Kafka's where Kafka has one; `data.dir`, `kafka`, `http`, `advertise` and `insecure` are
ours, and `log.dirs`, `listeners` and `advertised.listeners` of a `server.properties` are turned into them. In the
environment a key is `LOGSTORE_` and its upper case with `.` as `_`, `-` as `___`, `_` as `__`: the rule of Kafka's own
image.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from cluster.config import ALIASES, BROKER_OPTIONS, BrokerConfig, ServeSettings, is_security, is_unused
from logstore.config import OPTIONS, nearest, parse_options, parse_value
from logstore.errors import InvalidConfig
from tools.properties import parse_properties

ENV_PREFIX: Final = "LOGSTORE_"
_ENV_OF_OTHERS: Final = {"LOGSTORE_CONFIG", "LOGSTORE_BOOTSTRAP", "LOGSTORE_FORMAT"}
# What Kubernetes puts into the environment of every pod beside a service named "logstore".
_ENV_OF_KUBERNETES: Final = re.compile(r"LOGSTORE_(SERVICE_(HOST|PORT)|PORT)(_.*)?")

OWN_KEYS: Final[Mapping[str, tuple[str, str]]] = {
    "data.dir": ("./logstore-data", "Directory that holds everything."),
    "kafka": ("127.0.0.1:9092", "Address that Kafka clients connect to."),
    "http": ("127.0.0.1:8080", "Address of HTTP; `off` for none."),
    "advertise": ("", "Address told to Kafka clients, when it is not the one listened on."),
    "insecure": ("false", "Whether to listen on addresses that other machines reach, without authentication."),
}
"""Keys of `serve` that are not the broker's -> default, help."""

_KAFKA_ADDRESS_KEYS: Final = ("log.dirs", "log.dir", "listeners", "advertised.listeners", "controller.listener.names")
_KNOWN: Final = (*OWN_KEYS, *BROKER_OPTIONS, *ALIASES, *_KAFKA_ADDRESS_KEYS)


class Setting(NamedTuple):
    value: str
    origin: str
    """Where it was written, for messages: `--set`, `LOGSTORE_… in the environment`, `server.properties line 12`."""


Layer: TypeAlias = dict[str, Setting]


class Gathered(NamedTuple):
    serve: ServeSettings
    warnings: tuple[str, ...]
    origins: Mapping[str, str]
    """Key -> where its value came from; keys left at their default are absent."""


def gather(
    flags: Mapping[str, str], sets: Sequence[str], environ: Mapping[str, str], config_file: Path | None = None
) -> Gathered:
    """Everything put together and checked.

    Args: `flags`, values of the named options by key (`data.dir`, `kafka`, …); `sets`, the `KEY=VALUE` of `--set`;
        `environ`, the whole environment; `config_file`, TOML or `.properties`, or None for `LOGSTORE_CONFIG`.
    Raises: InvalidConfig, naming the key, the value, where it was written and an accepted example.
    """
    if config_file is None and environ.get("LOGSTORE_CONFIG"):
        config_file = Path(environ["LOGSTORE_CONFIG"])
    warnings: list[str] = []
    merged: Layer = {}
    for layer in (
        _checked(read_config_file(config_file), config_file, warnings) if config_file else {},
        _checked(environment_layer(environ), None, warnings),
        _checked(_sets_layer(sets) | {k: Setting(v, _flag(k)) for k, v in flags.items()}, None, warnings),
    ):
        for key in layer:
            for rival in _rivals(key):
                merged.pop(rival, None)
        merged.update(layer)
    serve = _build(merged, warnings)
    return Gathered(serve, tuple(warnings), {key: setting.origin for key, setting in merged.items()})


def environment_name(key: str) -> str:
    """The name of a key in the environment: `log.retention.ms` -> `LOGSTORE_LOG_RETENTION_MS`."""
    return ENV_PREFIX + key.replace("_", "__").replace("-", "___").replace(".", "_").upper()


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Every `LOGSTORE_…` of the environment that is meant for `serve`, by key."""
    by_name = {environment_name(key): key for key in _KNOWN}
    layer: Layer = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in _ENV_OF_OTHERS or _ENV_OF_KUBERNETES.fullmatch(name):
            continue
        if name not in by_name and not is_unused(_decode(name)) and not is_security(_decode(name)):
            near = nearest(name.removeprefix(ENV_PREFIX), [known.removeprefix(ENV_PREFIX) for known in by_name])
            hint = f"did you mean {ENV_PREFIX}{near}?" if near else "see docs/configuration.md for the known names"
            raise InvalidConfig(f"unknown name {name} in the environment", hint=hint)
        layer[by_name.get(name, _decode(name))] = Setting(value, f"{name} in the environment")
    return layer


def read_config_file(path: Path) -> Layer:
    """The settings of a TOML or `.properties` file, by the end of its name. Raises `InvalidConfig`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfig(f"cannot read {path}: {error.strerror}", hint="give --config an existing file") from None
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is not UTF-8 at byte {error.start}", hint="save it as UTF-8") from None
    if path.suffix == ".properties":
        return {p.key: Setting(p.value, f"{path} line {p.line}") for p in parse_properties(text)}
    if path.suffix == ".toml":
        try:
            return {key: Setting(value, str(path)) for key, value in _flatten(tomllib.loads(text), "")}
        except tomllib.TOMLDecodeError as error:
            raise InvalidConfig(f"{path} is not TOML: {error}", hint="as in num.partitions = 3") from None
    raise InvalidConfig(f"cannot tell the format of {path}", hint="name it ….toml or ….properties")


def parse_address(key: str, text: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPV6]:PORT` or `:PORT` (every address). Raises `InvalidConfig` with an accepted example."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]\s/]*):(\d{1,5})", text.strip())
    if match is None or int(match[2]) > 65535:
        raise InvalidConfig(f"{key}={text} is not HOST:PORT", hint=f"write for example {key}=127.0.0.1:9092")
    return match[1].strip("[]"), int(match[2])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. Names other than localhost count as reachable by others."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- one layer -----------------------------------------------------------------------------------------------------


def _sets_layer(sets: Sequence[str]) -> Layer:
    layer: Layer = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InvalidConfig(f"--set {text} is not KEY=VALUE", hint="write for example --set num.partitions=3")
        layer[key.strip()] = Setting(value.strip(), "--set")
    return layer


def _checked(layer: Layer, file: Path | None, warnings: list[str]) -> Layer:
    """The layer under known keys only. Kafka's keys without meaning here: a warning in `.properties`, else an error."""
    lenient = file is not None and file.suffix == ".properties"
    layer = _addresses(layer, warnings)
    checked: Layer = {}
    ignored = []
    for key, setting in layer.items():
        name = ALIASES.get(key, key)
        if name in OWN_KEYS or name in BROKER_OPTIONS:
            checked[name] = setting
        elif is_security(key):
            raise InvalidConfig(
                f"{key} from {setting.origin} asks for security this version does not have",
                hint="remove the key, and keep the broker on a loopback address or a network you trust",
            )
        elif is_unused(key) and lenient:
            ignored.append(key)
        else:
            raise _unknown(key, setting.origin)
    if ignored:
        warnings.append(f"{file}: no meaning on one node, ignored: {', '.join(ignored)}")
    return checked


def _unknown(key: str, origin: str) -> InvalidConfig:
    if is_unused(key):
        return InvalidConfig(f"{key} from {origin} has no meaning on one node", hint="remove it")
    stands_for = next((name for name, (_, known) in BROKER_OPTIONS.items() if known.topic == key), None)
    near = stands_for or nearest(key, _KNOWN)
    hint = f"did you mean {near}?" if near else "see docs/configuration.md for the known names"
    what = f"{key} from {origin} is an option of topics" if key in OPTIONS else f"unknown option {key} from {origin}"
    return InvalidConfig(what, hint=hint)


def _addresses(layer: Layer, warnings: list[str]) -> Layer:
    """Kafka's `log.dirs` and listeners as our own keys; our own win over them in the same layer."""
    layer = dict(layer)
    directories = layer.pop("log.dir", None)
    directories = layer.pop("log.dirs", directories)
    if directories is not None:
        if "," in directories.value:
            raise InvalidConfig(
                f"log.dirs={directories.value} from {directories.origin} names several directories",
                hint="one directory holds everything, for example log.dirs=/var/lib/logstore",
            )
        layer.setdefault("data.dir", directories)
    controllers = layer.pop("controller.listener.names", Setting("", "")).value.replace(" ", "").split(",")
    protocols = _pairs(layer.pop("listener.security.protocol.map", Setting("", "")).value)
    for kafka_key, key in (("listeners", "kafka"), ("advertised.listeners", "advertise")):
        setting = layer.pop(kafka_key, None)
        if setting is not None:
            address = _client_listener(kafka_key, setting, controllers, protocols, warnings)
            layer.setdefault(key, Setting(address, f"{kafka_key} in {setting.origin}"))
    return layer


def _client_listener(
    key: str, setting: Setting, controllers: Sequence[str], protocols: Mapping[str, str], warnings: list[str]
) -> str:
    """The `HOST:PORT` of the one listener for clients: the first that is no controller's."""
    listeners = []
    for text in filter(None, (part.strip() for part in setting.value.split(","))):
        name, slashes, address = text.partition("://")
        if not slashes:
            raise InvalidConfig(
                f"{key}={setting.value} from {setting.origin} is not NAME://HOST:PORT",
                hint=f"write for example {key}=PLAINTEXT://127.0.0.1:9092",
            )
        if name not in controllers:
            listeners.append((name, address))
    if not listeners:
        raise InvalidConfig(
            f"{key}={setting.value} from {setting.origin} has no listener for clients",
            hint=f"write for example {key}=PLAINTEXT://127.0.0.1:9092",
        )
    name, address = listeners[0]
    if protocols.get(name, name) in ("SSL", "SASL_PLAINTEXT", "SASL_SSL"):
        raise InvalidConfig(
            f"{key}={setting.value} from {setting.origin} asks for security this version does not have",
            hint=f"write for example {key}=PLAINTEXT://127.0.0.1:9092",
        )
    if len(listeners) > 1:
        warnings.append(f"{setting.origin}: only the first of {key} is used, {name}://{address}")
    return address


def _pairs(text: str) -> dict[str, str]:
    return {k.strip(): v.strip() for k, _, v in (part.partition(":") for part in text.split(",")) if k.strip()}


def _flatten(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        match value:
            case dict():
                yield from _flatten(value, f"{prefix}{key}.")
            case bool():
                yield prefix + key, "true" if value else "false"
            case list():
                yield prefix + key, ",".join(str(item) for item in value)
            case _:
                yield prefix + key, str(value)


def _decode(name: str) -> str:
    """The key of a name in the environment that no known key has."""
    text = name.removeprefix(ENV_PREFIX).lower()
    return text.replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")


def _flag(key: str) -> str:
    return "--" + key.replace(".", "-")


def _rivals(key: str) -> list[str]:
    """The other keys of the same topic option: a higher layer's `log.retention.hours` ends a lower layer's `.ms`."""
    topic = BROKER_OPTIONS[key][1].topic if key in BROKER_OPTIONS else ""
    return [name for name, (_, known) in BROKER_OPTIONS.items() if topic and known.topic == topic and name != key]


# --- all layers ----------------------------------------------------------------------------------------------------


def _build(merged: Layer, warnings: list[str]) -> ServeSettings:
    broker_values: dict[str, str] = {}
    for key, setting in merged.items():
        if key in BROKER_OPTIONS:
            try:
                parse_value(BROKER_OPTIONS[key][1], setting.value)
            except InvalidConfig as error:
                raise InvalidConfig(f"{error.args[0]}, from {setting.origin}", hint=error.hint) from None
            broker_values[key] = setting.value
    insecure = _own(merged, "insecure").value.strip().lower()
    if insecure not in ("true", "false"):
        raise InvalidConfig(
            f"insecure={insecure} from {_own(merged, 'insecure').origin} is not a truth value",
            hint="choose true or false",
        )
    kafka = _address(merged, "kafka")
    http = None if _own(merged, "http").value.strip().lower() == "off" else _address(merged, "http")
    advertise = _address(merged, "advertise") if _own(merged, "advertise").value.strip() else None
    if advertise is not None and (advertise[0] in ("0.0.0.0", "::") or advertise[1] == 0):
        setting = _own(merged, "advertise")
        raise InvalidConfig(
            f"advertise={setting.value} from {setting.origin} is no address a client can connect to",
            hint="write for example advertise=broker.example.com:9092",
        )
    for key, address in (("kafka", kafka), ("http", http)):
        if address is not None and not is_loopback(address[0]):
            _require_consent(key, _own(merged, key), insecure == "true", warnings)
    if advertise is None and kafka[0] in ("0.0.0.0", "::"):
        warnings.append(
            f"clients are told to connect to {kafka[0]}, which only this machine takes for itself: use --advertise"
        )
    if not _own(merged, "data.dir").value.strip():
        raise InvalidConfig(
            f"data.dir from {_own(merged, 'data.dir').origin} is empty",
            hint="write for example data.dir=./logstore-data",
        )
    return ServeSettings(
        data_dir=Path(_own(merged, "data.dir").value.strip()).expanduser(),
        kafka=kafka,
        http=http,
        advertise=advertise,
        broker=parse_options(broker_values, BrokerConfig(), BROKER_OPTIONS),
    )


def _own(merged: Layer, key: str) -> Setting:
    return merged.get(key) or Setting(OWN_KEYS[key][0], "the default")


def _address(merged: Layer, key: str) -> tuple[str, int]:
    setting = _own(merged, key)
    try:
        host, port = parse_address(key, setting.value)
        return host or "0.0.0.0", port
    except InvalidConfig as error:
        raise InvalidConfig(f"{error.args[0]}, from {setting.origin}", hint=error.hint) from None


def _require_consent(key: str, setting: Setting, insecure: bool, warnings: list[str]) -> None:
    """Without authentication, whoever reaches the port reads and deletes everything: that must be said aloud."""
    if not insecure:
        raise InvalidConfig(
            f"{key}={setting.value} from {setting.origin} is open to other machines, and there is no authentication",
            hint="listen on 127.0.0.1, or add --insecure if whoever reaches the port may read and delete everything",
        )
    warnings.append(f"{key}={setting.value} is open to other machines without authentication")
