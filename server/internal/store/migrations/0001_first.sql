-- Times are milliseconds since 1970, UTC. Ids are UUIDs unless said otherwise.

CREATE TABLE users (
    id       TEXT PRIMARY KEY,
    email    TEXT NOT NULL UNIQUE, -- lower case
    password TEXT NOT NULL,        -- argon2id, PHC form
    created  INTEGER NOT NULL,
    updated  INTEGER NOT NULL,
    login    INTEGER
) STRICT;

-- Sessions and personal access tokens. The token itself is signed and not stored; id is its jti.
CREATE TABLE tokens (
    id      TEXT PRIMARY KEY,
    user_id TEXT REFERENCES users (id) ON DELETE CASCADE, -- NULL: made on the server's command line
    kind    TEXT NOT NULL CHECK (kind IN ('session', 'access')),
    name    TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER, -- NULL: never
    used    INTEGER
) STRICT;
CREATE UNIQUE INDEX tokens_name ON tokens (coalesce(user_id, ''), name) WHERE kind = 'access';
CREATE INDEX tokens_user ON tokens (user_id, kind, created);

CREATE TABLE devices (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which devices came, which is the order of rollouts
    id            TEXT NOT NULL UNIQUE,
    identity_hash TEXT NOT NULL UNIQUE, -- SHA-256 of identity, hex
    identity      TEXT NOT NULL,        -- JSON object, keys sorted
    status        TEXT NOT NULL CHECK (status IN ('pending', 'accepted', 'rejected', 'noauth')), -- the strongest of its auth sets
    group_name    TEXT,
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL,
    inventoried   INTEGER,
    checked_in    INTEGER
) STRICT;
CREATE INDEX devices_status ON devices (status, seq);
CREATE INDEX devices_group ON devices (group_name, seq) WHERE group_name IS NOT NULL;

CREATE TABLE auth_sets (
    id          TEXT PRIMARY KEY,
    device_id   TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    pubkey      TEXT NOT NULL, -- PEM, normalised
    fingerprint TEXT NOT NULL, -- SHA-256 of the DER key, hex
    status      TEXT NOT NULL CHECK (status IN ('pending', 'accepted', 'rejected')),
    created     INTEGER NOT NULL,
    address     TEXT NOT NULL, -- IP address of the first request
    UNIQUE (device_id, fingerprint)
) STRICT;
CREATE UNIQUE INDEX auth_sets_accepted ON auth_sets (device_id) WHERE status = 'accepted';
CREATE INDEX auth_sets_status ON auth_sets (status);

CREATE TABLE attributes (
    device_id   TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    scope       TEXT NOT NULL,
    name        TEXT NOT NULL,
    value       TEXT NOT NULL, -- JSON
    description TEXT NOT NULL,
    updated     INTEGER NOT NULL,
    PRIMARY KEY (device_id, scope, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX attributes_value ON attributes (scope, name, value);

CREATE TABLE artifacts (
    id       TEXT PRIMARY KEY, -- also the name of its blob
    name     TEXT NOT NULL,
    size     INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    document TEXT NOT NULL -- menderapi.Artifact
) STRICT;
CREATE INDEX artifacts_name ON artifacts (name, modified);

-- What makes artifacts of one name distinct: every combination of what they depend on.
CREATE TABLE artifact_depends (
    name        TEXT NOT NULL,
    combination TEXT NOT NULL, -- JSON, keys sorted
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    PRIMARY KEY (name, combination)
) STRICT, WITHOUT ROWID;
CREATE INDEX artifact_depends_artifact ON artifact_depends (artifact_id);

CREATE TABLE artifact_types (
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    device_type TEXT NOT NULL,
    PRIMARY KEY (artifact_id, device_type)
) STRICT, WITHOUT ROWID;

CREATE TABLE deployments (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of creation
    id            TEXT NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    artifact_name TEXT NOT NULL,
    fingerprint   TEXT NOT NULL, -- of what makes two deployments identical
    force         INTEGER NOT NULL,
    retries       INTEGER NOT NULL,
    groups        TEXT NOT NULL, -- JSON list
    policy        TEXT NOT NULL, -- menderapi.Policy, completed
    status        TEXT NOT NULL CHECK (status IN ('pending', 'inprogress', 'finished')),
    state         TEXT NOT NULL CHECK (state IN ('running', 'soaking', 'paused', 'finished', 'aborted')),
    phase         INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    soak_until    INTEGER,
    forgiven      INTEGER NOT NULL,
    devices       INTEGER NOT NULL, -- number of targets
    asked         INTEGER NOT NULL, -- how many of them have asked for it
    total_size    INTEGER NOT NULL, -- of the artifacts offered to them, bytes
    created       INTEGER NOT NULL,
    finished      INTEGER,
    CHECK ((finished IS NOT NULL) = (status = 'finished'))
) STRICT;
CREATE UNIQUE INDEX deployments_active ON deployments (fingerprint) WHERE finished IS NULL;
CREATE INDEX deployments_artifact ON deployments (artifact_name) WHERE finished IS NULL;
CREATE INDEX deployments_soaking ON deployments (soak_until) WHERE state = 'soaking';

-- One row for each device of a deployment, all made with the deployment. No reference to devices: a target outlives the
-- device, so that the statistics of the past stay true.
CREATE TABLE targets (
    deployment  INTEGER NOT NULL REFERENCES deployments (seq) ON DELETE CASCADE,
    device_id   TEXT NOT NULL,
    phase       INTEGER NOT NULL,
    status      TEXT NOT NULL,
    substate    TEXT NOT NULL DEFAULT '',
    attempt     INTEGER NOT NULL DEFAULT 1,
    not_before  INTEGER, -- of the next attempt
    artifact_id TEXT,    -- chosen at the first offer
    asked       INTEGER, -- when the device first asked
    offered     INTEGER, -- when this attempt was first offered
    finished    INTEGER,
    PRIMARY KEY (deployment, device_id),
    CHECK ((finished IS NOT NULL) =
           (status IN ('success', 'failure', 'already-installed', 'noartifact', 'aborted', 'decommissioned')))
) STRICT, WITHOUT ROWID;
CREATE INDEX targets_open ON targets (device_id, deployment) WHERE finished IS NULL;

-- How many targets of a phase have a status. Made with the targets; from then on a trigger keeps it, so that no path
-- through the program can forget to, and the sum over a deployment is always the number of its targets.
CREATE TABLE tallies (
    deployment INTEGER NOT NULL REFERENCES deployments (seq) ON DELETE CASCADE,
    phase      INTEGER NOT NULL,
    status     TEXT NOT NULL,
    n          INTEGER NOT NULL CHECK (n >= 0),
    PRIMARY KEY (deployment, phase, status)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER targets_count_change AFTER UPDATE OF status ON targets WHEN OLD.status <> NEW.status
BEGIN
    UPDATE tallies SET n = n - 1 WHERE deployment = OLD.deployment AND phase = OLD.phase AND status = OLD.status;
    INSERT INTO tallies VALUES (NEW.deployment, NEW.phase, NEW.status, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TRIGGER targets_count_asked AFTER UPDATE OF asked ON targets WHEN OLD.asked IS NULL AND NEW.asked IS NOT NULL
BEGIN
    UPDATE deployments SET asked = asked + 1 WHERE seq = NEW.deployment;
END;

CREATE TRIGGER targets_count_size AFTER UPDATE OF artifact_id ON targets WHEN OLD.artifact_id IS NOT NEW.artifact_id
BEGIN
    UPDATE deployments SET total_size = total_size
        + coalesce((SELECT size FROM artifacts WHERE id = NEW.artifact_id), 0)
        - coalesce((SELECT size FROM artifacts WHERE id = OLD.artifact_id), 0)
    WHERE seq = NEW.deployment;
END;

CREATE TABLE logs (
    deployment INTEGER NOT NULL REFERENCES deployments (seq) ON DELETE CASCADE,
    device_id  TEXT NOT NULL,
    updated    INTEGER NOT NULL,
    document   TEXT NOT NULL, -- menderapi.Log
    PRIMARY KEY (deployment, device_id)
) STRICT, WITHOUT ROWID;
