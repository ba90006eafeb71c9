-- Rollouts that choose their devices by a filter, expire, and wait for approvals.

-- While a rollout waits for the approval of its next phase its state is 'running' in the table (the phases before are
-- released), and awaits is 1. Then phase may be -1: nothing is released.
ALTER TABLE deployments ADD COLUMN awaits  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deployments ADD COLUMN passed  INTEGER NOT NULL DEFAULT 0; -- 1: resumed though the phase ended without a success
ALTER TABLE deployments ADD COLUMN open    INTEGER NOT NULL DEFAULT 0; -- 1: devices that meet the policy's filter may join
ALTER TABLE deployments ADD COLUMN expires INTEGER;                    -- when those that have not begun are given up
ALTER TABLE deployments ADD COLUMN expired INTEGER NOT NULL DEFAULT 0; -- 1: that has been done
CREATE INDEX deployments_open ON deployments (seq) WHERE open = 1 AND finished IS NULL;
CREATE INDEX deployments_expires ON deployments (expires) WHERE expired = 0 AND finished IS NULL AND expires IS NOT NULL;

-- Targets of such rollouts come and go. One that is made with its deployment is counted there, one that joins by a trigger.
ALTER TABLE targets ADD COLUMN joined INTEGER; -- when; NULL: made with the deployment

CREATE TRIGGER targets_join AFTER INSERT ON targets WHEN NEW.joined IS NOT NULL
BEGIN
    INSERT INTO tallies VALUES (NEW.deployment, NEW.phase, NEW.status, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;
    UPDATE deployments SET devices = devices + 1 WHERE seq = NEW.deployment;
END;

CREATE TRIGGER targets_leave AFTER DELETE ON targets
BEGIN
    UPDATE tallies SET n = n - 1 WHERE deployment = OLD.deployment AND phase = OLD.phase AND status = OLD.status;
    UPDATE deployments SET devices = devices - 1, asked = asked - (OLD.asked IS NOT NULL),
        total_size = total_size - coalesce((SELECT size FROM artifacts WHERE id = OLD.artifact_id), 0)
    WHERE seq = OLD.deployment;
END;

-- From this version on a device that is rejected, or has no key left, takes part in no rollout. Those that did so before
-- kept their rollouts from ending.
UPDATE targets SET status = 'aborted', substate = 'the device is not accepted', finished = CAST(unixepoch('subsec') * 1000 AS INTEGER)
WHERE finished IS NULL AND device_id IN (SELECT id FROM devices WHERE status IN ('rejected', 'noauth'));
