locals {
  a = env("HOME")            # ERROR: Call to unknown function
  b = git::describ()         # ERROR: Call to unknown function
  c = semver::describe()     # ERROR: Call to unknown function
  d = cidrhost("10.0.0.0", 1) # ERROR: Call to unknown function
  e = pathexpand("~")        # ERROR: Call to unknown function
  f = uper("a")              # ERROR: Call to unknown function
  g = nothing("a")           # ERROR: Call to unknown function
  h = count.index            # ERROR: Unknown reference
}
