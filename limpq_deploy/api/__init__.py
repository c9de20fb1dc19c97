"""The public calls behind `import limpq_deploy`; the command line prints what they return."""
