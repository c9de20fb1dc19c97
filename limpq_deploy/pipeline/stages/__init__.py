"""The stages of a build, in three groups: learn (training), deploy (engine), conclude (verdict, report, bundle)."""
